"""Critically-damped Langevin diffusion: train, sample, evaluate. Needs no cluster.

import cld_core
model = cld_core.load("runs/NAME")
x = model.sample(64)
"""

from pathlib import Path
from typing import TYPE_CHECKING

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .model import Model


def load(
    run: str | Path, checkpoint: int | str = "last", device: str | None = None, *, allow_plugin: bool = False
) -> "Model":
    """The model of a run folder or of an exported file, with averaged weights; see `cld_core.model.Model`.

    Args:
        run: path of a run folder, or of a file that `cldctl export` wrote.
        checkpoint: a step, or "last" for the newest good one; a file has only one.
        device: where to compute; default: a GPU if one is available.
        allow_plugin: whether the code that the recipe names in `data.plugin` may run. That of a run which nobody
            else can write always may. A file that `export` wrote can be sampled without its plug-in.

    Raises:
        NotFoundError: there is no such run, file or checkpoint.
        CheckpointError: the checkpoint is damaged, belongs to another recipe, or needs a plug-in that is not allowed.
    """
    from .model import Model

    if Path(run).suffix == ".safetensors":
        return Model.from_file(run, device, allow_plugin=allow_plugin)
    return Model.from_run(run, checkpoint, device, allow_plugin=allow_plugin)
