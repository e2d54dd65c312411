"""Critically-damped Langevin diffusion: train, sample, evaluate. Needs no cluster.

import cld_core
model = cld_core.load("NAME")
x = model.sample(64)
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import errors
from .version import __version__

if TYPE_CHECKING:
    from torch import device
    from torch.nn import Module

    from .fit_model import fit, fit_steps
    from .likelihood import Likelihood
    from .model import Model, Trajectory
    from .plugins import register
    from .runs_table import Runs
    from .samplers import Samples

__all__ = [
    "Likelihood",
    "Model",
    "Runs",
    "Samples",
    "Trajectory",
    "__version__",
    "errors",
    "fit",
    "fit_steps",
    "load",
    "register",
    "runs",
]

# Imported on first use: `import cld_core` loads no torch.
_LAZY = {
    "Likelihood": "cld_core.likelihood:Likelihood",
    "Model": "cld_core.model:Model",
    "Runs": "cld_core.runs_table:Runs",
    "Samples": "cld_core.samplers:Samples",
    "Trajectory": "cld_core.model:Trajectory",
    "fit": "cld_core.fit_model:fit",
    "fit_steps": "cld_core.fit_model:fit_steps",
    "register": "cld_core.plugins:register",
}


def load(
    run: str | Path,
    checkpoint: int | str = "last",
    device: "device | str | None" = None,
    *,
    allow_plugin: bool = False,
    ema_length: float | None = None,
    network: "Module | None" = None,
) -> "Model":
    """The model of a run or of an exported file, with averaged weights.

    Args:
        run: a run's folder, or its name in the folder of the runs ($CLDCTL_RUNS, else runs/); or a
            .safetensors file that `cldctl export` wrote.
        checkpoint: a step, or "last" for the newest good one; a file has only one.
        device: where to compute; default: a GPU if one is available.
        allow_plugin: whether the code that the recipe names in `plugins` may run. The code of a
            run always may if no other user can write it. A file that `export` wrote can be sampled
            without a plug-in that only has its data; a plug-in is looked for at its old path, then
            beside the file.
        ema_length: relative length of the average of the weights, for a run that was trained with
            `train.ema_lengths` (docs/howto/ema.md); None: the average of `train.ema`. A file has
            only one.
        network: a module like the one that was passed to `fit`, if one was: a file has its weights
            and no code. A copy of the module gets them.

    Raises:
        NotFoundError: there is no such run, file or checkpoint; names the places that were
            searched.
        RecipeError: an argument is wrong.
        UsageError: the average of this length cannot be made (the message names possible lengths);
            or ``network`` is missing, or not needed.
        CheckpointError: the checkpoint is damaged, belongs to another recipe, or needs a plug-in
            that is not allowed or not there.
    """
    from .config.loader import path_of
    from .model import Model

    place = path_of(run, "run", "cld_core.load")
    if place.suffix == ".safetensors":
        if ema_length is not None:
            raise errors.UsageError(
                f"{run}: a file has one average, so ema_length has no meaning here. Load the run, "
                "or export it with --ema-length."
            )
        model = Model.from_file(place, device, allow_plugin=allow_plugin, network=network)
        if checkpoint not in ("last", model.step):
            raise errors.NotFoundError(
                f"{run}: there is no checkpoint {checkpoint!r}: a file has one, here that of step "
                f"{model.step}. Leave out checkpoint, or load the run."
            )
        return model
    if network is not None:
        raise errors.UsageError(f"{run}: the recipe of a run names its network. Leave out network.")
    return Model.from_run(
        place, checkpoint, device, allow_plugin=allow_plugin, ema_length=ema_length
    )


def runs(runs_dir: str | Path | None = None) -> "Runs":
    """The runs of a folder, oldest first; see `cld_core.runs_table.Runs`.

    Asks no scheduler and loads no torch.

    Args:
        runs_dir: the folder; default: $CLDCTL_RUNS, else runs/.
    """
    from .runs_table import Runs

    return Runs.under(runs_dir)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'cld_core' has no attribute {name!r}")
    from .plugins import resolve

    return resolve(_LAZY[name])
