"""What runs begin with from elsewhere: a checkpoint in the layout of the published code, or the
weights of another run.

The published layout: ``model`` (names under `module.`), ``optimizer`` (of all parameters, in
order), ``ema`` (``shadow_params``, a list of the trainable parameters in order, and
``num_updates``) and ``step``.

That of PSLD's code, which PyTorch Lightning writes, is brought into it: ``state_dict`` (names under
`score_fn.` for the network and `ema_score_fn.` for the average of its weights),
``optimizer_states`` (one, of all parameters of the network in order), ``global_step`` and
``epoch``.

Read with `weights_only`, or as safetensors, so a downloaded file cannot run code.
"""

import re
import shutil
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from cld_core.checkpoint import averaged_weights, exported_weights, write

from . import nets, optim
from .codec import whole
from .config import Recipe
from .config.train import OptimSpec
from .data.source import classes_of, source
from .errors import CheckpointError, NotFoundError, UsageError, WrongCheckpointError
from .files import write_json
from .model import Model
from .ranks import Ranks
from .run import RunFolder, events
from .run.checkpoints import pick_checkpoint
from .run.folder import ReportedProgress, meant
from .sanitize import is_count, one_line
from .train.step import Trainer

_KEYS = ("model", "optimizer", "ema", "step")
_LIGHTNING = ("state_dict", "optimizer_states", "global_step")
_LIVE, _AVERAGE = "score_fn.", "ema_score_fn."
# How a zip archive begins, which torch writes, and a pickle, which it wrote before 1.6.
_STARTS = (b"PK", b"\x80")
# How many keys of another kind of file, or tensors, a message shows.
_SHOWN = 6
# The weights of a step: RUN@STEP.
_AT_STEP = re.compile(r"(.+)@(last|[0-9]{1,18})")


# --- weights of another run


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Averaged weights that new runs start from: of a checkpoint of another run, or of an exported
    file.

    Attributes:
        path: the run or the file.
        step: the optimiser step of the weights.
        tensors: by name, on the CPU.
    """

    path: Path
    step: int
    tensors: Mapping[str, Tensor]

    @property
    def identity(self) -> Mapping[str, Any]:
        """What `run.json` says of it."""
        return {"path": str(self.path), "step": self.step}

    def __str__(self) -> str:
        return f"{self.path.name} at step {self.step:,}"

    @classmethod
    def of(cls, text: str, root: Path) -> Self:
        """The weights that `--from` names. Neither the recipe of the run or file is used, nor any
        code of it.

        Args:
            text: RUN, RUN@STEP or FILE.safetensors; RUN is a name in the folder ``root``, or a path
                with a slash.

        Raises:
            NotFoundError: there is no such run, checkpoint or file.
            CheckpointError, CldError, OSError: it is damaged, or cannot be read.
        """
        if text.endswith(".safetensors") or (Path(text).is_file() and not meant(text, root).exists):
            path = Path(text).absolute()
            weights = exported_weights(path)
            if not is_count(step := weights.about.get("step", "")):
                raise CheckpointError(
                    f"{path}: it does not say of which step it is. Export it again."
                )
            return cls(path=path, step=int(step), tensors=weights.tensors)
        match = _AT_STEP.fullmatch(text)
        name, checkpoint = (text, "last") if match is None else match.groups()
        folder = RunFolder.open(meant(name, root).path)
        of = pick_checkpoint(folder, None, checkpoint)
        return cls(path=folder.path, step=of, tensors=averaged_weights(folder, of).tensors)

    def require_fit(self, recipe: Recipe, *, partial: bool) -> str:
        """What starting a run of ``recipe`` from these weights does, in a line.

        Args:
            partial: whether tensors that do not fit may start afresh.

        Raises:
            UsageError: not all tensors fit, or none; names them.
            RecipeError, DataError: the network or the data of the recipe cannot be used.
        """
        data = source(recipe.data)
        own = nets.outline(recipe, data.shape, classes_of(data)).state_dict()
        others = self._others(own)
        if not others:
            return f"starts from {self}"
        shapes = [
            f"{one_line(name, 80)} {_kind_in(self.tensors, name)}, here {_kind_in(own, name)}"
            for name in others
        ]
        described = "; ".join(shapes[:_SHOWN]) + (
            f" and {len(shapes) - _SHOWN} more" if len(shapes) > _SHOWN else ""
        )
        if own.keys() <= set(others):
            text = f"no tensor of {self} fits the network of the recipe: {described}"
            raise UsageError(f"{text}. Use weights of the same network, or leave out --from.")
        if not partial:
            fix = "Add --partial to start these afresh, or use weights of the same network"
            raise UsageError(f"{self} does not fit the network of the recipe: {described}. {fix}.")
        return f"starts from {self}, except for what does not fit: {described}"

    def begin(self, run: RunFolder, recipe: Recipe) -> None:
        """Give a new run a checkpoint of step 0 with these weights, live and averaged, and a new
        optimiser.

        What does not fit is as `train.seed` makes it. The ledger says so.

        Raises:
            SaveError: it cannot be written.
        """
        trainer = Trainer(recipe, Ranks())
        try:
            state = trainer.state_dict()
        finally:
            trainer.close()
        own: dict[str, Tensor] = state["model"]
        fresh = [name for name in self._others(own) if name in own]
        state["model"] = {
            name: own[name] if name in fresh else self.tensors[name].to(own[name].dtype)
            for name in own
        }
        state["ema"]["average"] = {name: state["model"][name] for name in state["ema"]["average"]}
        # Averages that have not been updated begin with the first step.
        state.pop("power", None)
        write(run, 0, state)
        event = events.Imported(
            step=0, source=self.path.name, source_step=self.step, fresh=tuple(fresh)
        )
        run.ledger.append(event)

    def _others(self, own: Mapping[str, Tensor]) -> list[str]:
        """The names of tensors, of the network ``own`` first, that it and these weights do not have
        alike."""
        names = dict.fromkeys((*own, *self.tensors))
        return [name for name in names if _kind_in(self.tensors, name) != _kind_in(own, name)]


def _kind_in(tensors: Mapping[str, Tensor], name: str) -> str:
    """What has to be alike: that a tensor is there, its shape, and whether it holds whole
    numbers."""
    if name not in tensors:
        return "none"
    tensor = tensors[name]
    kind = "" if tensor.is_floating_point() else " of whole numbers"
    return f"{tuple(tensor.shape)}{kind}"


# --- published checkpoints


def import_published(
    file: Path, recipe: Recipe, path: Path, identity: dict[str, Any]
) -> tuple[RunFolder, int, int]:
    """Make the run at ``path`` of a published checkpoint: weights, their average, the optimiser's
    state and the step.

    Nothing is left of the run if a tensor does not fit the recipe, or if something cannot be
    written.

    Args:
        identity: what `run.json` is to hold, see `cld_core.run.identity`.

    Returns:
        The new run, the step of its checkpoint, and the number of its parameters.

    Raises:
        NotFoundError, CheckpointError: the file does not exist, has another layout, or does not fit
            the recipe.
        UsageError: the checkpoint is later than `train.steps`, or the name is taken.
        SaveError: the checkpoint cannot be written.
    """
    step, state = read(file, Model(recipe).net, recipe.optim)
    if step > recipe.train.steps:
        text = (
            f"is of step {step}, later than train.steps={recipe.train.steps}. Add "
            f"train.steps={step}."
        )
        raise UsageError(f"{file} {text}")
    folder = RunFolder.create(path, recipe, {**identity, "imported": str(file.absolute())})
    try:
        write(folder, step, {**state, "model_digest": recipe.model_digest()})
        folder.ledger.append(
            events.Imported(step=step, source=file.name, finished=step >= recipe.train.steps)
        )
        progress = ReportedProgress(
            attempt=0,
            step=step,
            steps=recipe.train.steps,
            loss=None,
            steps_per_s=None,
            time=time.time(),
        )
        write_json(folder.progress_file, progress)
    except BaseException:
        # A run without events would look as if it waited to be submitted.
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return folder, step, sum(tensor.numel() for tensor in state["model"].values())


class Mismatch(Exception):
    """Something in a file does not fit the recipe's network: a message without the file and the
    fix."""


def read(file: Path, net: nn.Module, spec: OptimSpec) -> tuple[int, dict[str, Any]]:
    """The step and the state of a published checkpoint, named as a `Trainer` of ``net`` names them.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: it cannot be read.
        WrongCheckpointError: it has another layout, or a tensor does not fit ``net``: the message
            names the first such tensor and both shapes.
    """
    content = _load(file)
    try:
        if set(_LIGHTNING) <= set(content):
            content = _from_lightning(content, net)
        return _count(content["step"], "step"), {
            "model": _model(content["model"], net),
            "ema": _ema(content["ema"], net),
            "optimiser": _optimiser(content["optimizer"], spec, net),
            "scaler": {},
        }
    except Mismatch as error:
        fix = "Choose the --recipe, or the network.* keys, that the checkpoint was trained with"
        raise WrongCheckpointError(f"{file}: {one_line(error)}. {fix}.") from error
    except Exception as error:  # a file of another layout leads anywhere
        text = f"not in the published layout ({type(error).__name__}: {one_line(error)})"
        raise WrongCheckpointError(
            f"{file}: {text}. Import a checkpoint that the published code wrote."
        ) from error


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise NotFoundError(
            f"{file}: no such file. Pass a checkpoint, such as checkpoint_800000.pth."
        )
    try:
        # What is mapped cannot unpack to any size; torch may take the bytes of a compressed tensor
        # for its numbers.
        if is_zip := zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise zipfile.BadZipFile("it is compressed")
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:
        with file.open("rb") as opened:
            start = opened.read(2)
        if start and not start.startswith(_STARTS):
            text = (
                "not a checkpoint: it cannot be read as plain tensors, and does not begin as a "
                "file of torch"
            )
            raise WrongCheckpointError(
                f"{file}: {text}. Pass one that the published code wrote."
            ) from error
        text = f"cannot be read as plain tensors ({type(error).__name__}). Download the file again."
        raise CheckpointError(f"{file}: {text}") from error
    names = set(content) if isinstance(content, dict) else {f"a {type(content).__name__}"}
    if not (set(_KEYS) <= names or set(_LIGHTNING) <= names):
        keys = sorted(one_line(key, 40) for key in names)
        more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
        layouts = (
            f"a published checkpoint holds {', '.join(_KEYS)}, or as PSLD's {', '.join(_LIGHTNING)}"
        )
        text = f"it holds {', '.join(keys[:_SHOWN]) or 'nothing'}{more}; {layouts}"
        raise WrongCheckpointError(
            f"{file}: {text}. Import a checkpoint that the published code wrote."
        )
    return content


def _from_lightning(content: Mapping[str, Any], net: nn.Module) -> dict[str, Any]:
    """A checkpoint of PSLD's code in the layout of the CLD code."""
    state = {str(name): tensor for name, tensor in content["state_dict"].items()}
    other = next((name for name in state if not name.startswith((_LIVE, _AVERAGE))), None)
    if other is not None:
        raise Mismatch(
            f"its tensor '{other}' belongs neither to {_LIVE[:-1]} nor to {_AVERAGE[:-1]}"
        )
    averages = [
        _AVERAGE + name for name, parameter in net.named_parameters() if parameter.requires_grad
    ]
    missing = next((name for name in averages if name not in state), None)
    if missing is not None:
        raise Mismatch(f"it has no tensor '{missing}'")
    optimisers = content["optimizer_states"]
    if len(optimisers) != 1:
        raise Mismatch(f"it has the states of {len(optimisers)} optimisers, not of one")
    step = content["global_step"]
    return {
        "model": {
            name.removeprefix(_LIVE): tensor
            for name, tensor in state.items()
            if name.startswith(_LIVE)
        },
        "optimizer": optimisers[0],
        "ema": {"shadow_params": [state[name] for name in averages], "num_updates": step},
        "step": step,
    }


def _model(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    theirs = {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
    own = net.state_dict()
    for name, tensor in own.items():
        if name not in theirs:
            raise Mismatch(
                f"it has no tensor '{name}', which is {_shape(tensor)} in the recipe's network"
            )
        _require_alike(f"tensor '{name}'", theirs[name], tensor)
    unknown = next((name for name in theirs if name not in own), None)
    if unknown is not None:
        raise Mismatch(
            f"its tensor '{unknown}', {_shape(theirs[unknown])}, is not in the recipe's network"
        )
    return {name: theirs[name].to(tensor.dtype) for name, tensor in own.items()}


def _ema(state: Mapping[str, Any], net: nn.Module) -> dict[str, Any]:
    trainable = {
        name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad
    }
    averages = list(state["shadow_params"])
    for (name, parameter), average in zip(trainable.items(), averages, strict=False):
        _require_alike(f"the average of '{name}'", average, parameter)
    if len(averages) != len(trainable):
        raise Mismatch(
            f"it averages {len(averages)} tensors, the recipe's network has {len(trainable)} to "
            f"average"
        )
    updates = _count(state["num_updates"], "number of updates")
    return {"updates": updates, "average": dict(zip(trainable, averages, strict=True))}


def _optimiser(state: Mapping[str, Any], spec: OptimSpec, net: nn.Module) -> dict[str, Any]:
    """The moments, under the numbers that the parameters have in our optimiser."""
    named = list(net.named_parameters())
    indices = [index for group in state["param_groups"] for index in group["params"]]
    by_index: dict[int, dict[str, Tensor]] = optim.portable(dict(state))["state"]
    moments: dict[int, dict[str, Tensor]] = {}
    # Theirs are all of our parameters, or the trainable ones.
    numbers = [number for number, (_, parameter) in enumerate(named) if parameter.requires_grad]
    if len(indices) == len(named):
        numbers = list(range(len(named)))
    if len(indices) != len(numbers):
        raise Mismatch(
            f"its optimiser has {len(indices)} parameters, the recipe's network has {len(named)}"
        )
    for index, number in zip(indices, numbers, strict=True):
        if index in by_index:
            name, parameter = named[number]
            moments[number] = _moments(by_index[index], spec, name, parameter)
    groups = optim.build(spec, net.parameters()).state_dict()["param_groups"]
    return {"state": moments, "param_groups": groups}


def _moments(
    theirs: Mapping[str, Tensor], spec: OptimSpec, name: str, parameter: Tensor
) -> dict[str, Tensor]:
    wanted = ("exp_avg", "exp_inf" if spec.name == "adamax" else "exp_avg_sq")
    for moment in wanted:
        if moment not in theirs:
            raise Mismatch(f"its optimiser has no {moment}, which optim.name={spec.name} needs")
        _require_alike(f"the optimiser's {moment} of '{name}'", theirs[moment], parameter)
    if theirs["step"].numel() != 1:
        raise Mismatch(f"the optimiser's step of '{name}' is not a number")
    return {"step": theirs["step"], **{moment: theirs[moment] for moment in wanted}}


def _count(value: Any, what: str) -> int:
    count = whole(value.item() if isinstance(value, Tensor) and value.numel() == 1 else value)
    if count is None:
        raise ValueError(f"its {what} is {one_line(repr(value), 40)}, not a whole number")
    return count


def _require_alike(what: str, theirs: Any, own: Tensor) -> None:
    if not isinstance(theirs, Tensor) or theirs.layout != torch.strided:
        raise Mismatch(f"{what} is not a plain tensor")
    if theirs.is_floating_point() != own.is_floating_point():
        raise Mismatch(f"{what} holds {theirs.dtype}, not {own.dtype}")
    if theirs.shape != own.shape:
        raise Mismatch(f"{what} is {_shape(theirs)}, but {_shape(own)} in the recipe's network")


def _shape(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}"
    return "x".join(map(str, tensor.shape)) or "a scalar"
