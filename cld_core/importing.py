"""Checkpoints of published code, and weights of other runs, as the beginning of a run.

The published layout: ``model`` (names under `module.`), ``optimizer`` (of all parameters, in
order), ``ema`` (``shadow_params``, a list of the trainable parameters in order, and
``num_updates``) and ``step``.

The layout of PSLD's code, which PyTorch Lightning writes, is converted to it: ``state_dict`` (names
under `score_fn.` for the network and `ema_score_fn.` for the average of its weights),
``optimizer_states`` (one, of all parameters of the network in order), ``global_step`` and
``epoch``.

Files are read with `weights_only`, or as safetensors, so a downloaded file cannot run code.
"""

import re
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from cld_core.checkpoint import State, Tensors, averaged_weights, exported_weights, write

from . import nets, optim
from .config import Recipe
from .config.keys import listed
from .config.train import OptimSpec
from .data.source import classes_of, source
from .errors import CheckpointError, NotFoundError, UsageError, WrongCheckpointError
from .files import write_json
from .model import Model
from .ranks import Ranks
from .records import record, whole
from .run import RunFolder, events
from .run.checkpoints import pick_checkpoint
from .run.folder import ReportedProgress, meant
from .sanitize import is_count, one_line
from .train.step import Trainer

_KEYS = ("model", "optimizer", "ema", "step")
_LIGHTNING = ("state_dict", "optimizer_states", "global_step")
# Prefixes of the network's tensors, and of their averages.
_LIVE = "score_fn."
_AVERAGE = "ema_score_fn."
# The first bytes of a zip archive, which torch writes, and of a pickle, which it wrote before 1.6.
_STARTS = (b"PK", b"\x80")
# The weights of a step: RUN@STEP.
_AT_STEP = re.compile(r"(.+)@(last|[0-9]{1,18})")


# --- weights of another run


@record
class StartingWeights:
    """Averaged weights that new runs start from: of another run, or of an exported file.

    Attributes:
        path: the run or the file.
        step: the optimiser step of the weights.
        tensors: by name, on the CPU.
    """

    path: Path
    step: int
    tensors: Tensors

    @property
    def identity(self) -> Mapping[str, Any]:
        """Its entry in `run.json`."""
        return {"path": str(self.path), "step": self.step}

    def __str__(self) -> str:
        return f"{self.path.name} at step {self.step:,}"

    @classmethod
    def of(cls, text: str, root: Path) -> Self:
        """The weights that `--from` names. Recipe and code of the run or file are not used.

        Args:
            text: RUN, RUN@STEP or FILE.safetensors; RUN is a name in the folder ``root``, or a path
                with a slash.

        Raises:
            NotFoundError: there is no such run, checkpoint or file.
            CheckpointError: the checkpoint or the file is damaged.
            CldError: this user may not read it.
            OSError: it cannot be read at this moment.
        """
        if text.endswith(".safetensors") or (Path(text).is_file() and not meant(text, root).exists):
            path = Path(text).absolute()
            weights = exported_weights(path)
            if not is_count(step := weights.about.get("step", "")):
                raise CheckpointError(
                    f"{path}: the file does not name the step of its weights. Export it again."
                )
            return cls(path=path, step=int(step), tensors=weights.tensors)
        name = text
        checkpoint = "last"
        if match := _AT_STEP.fullmatch(text):
            name, checkpoint = match.groups()
        folder = RunFolder.open(meant(name, root).path)
        number = pick_checkpoint(folder, None, checkpoint)
        return cls(path=folder.path, step=number, tensors=averaged_weights(folder, number).tensors)

    def require_fit(self, recipe: Recipe, *, partial: bool) -> str:
        """Compare the weights with the network of ``recipe``; returns the result in a line.

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
            f"{one_line(name, 80)} {_kind(self.tensors.get(name))}, here {_kind(own.get(name))}"
            for name in others
        ]
        described = listed(shapes, separator="; ")
        if own.keys() <= set(others):
            raise UsageError(
                f"no tensor of {self} fits the network of the recipe: {described}. Use weights of "
                "the same network, or leave out --from."
            )
        if not partial:
            raise UsageError(
                f"{self} does not fit the network of the recipe: {described}. Add --partial to "
                "start these afresh, or use weights of the same network."
            )
        return f"starts from {self}, except for what does not fit: {described}"

    def begin(self, run: RunFolder, recipe: Recipe) -> None:
        """Give a new run a checkpoint of step 0 with these weights and a new optimiser.

        Live and averaged weights are equal. Tensors that do not fit are initialised from
        `train.seed`; the ledger names them.

        Raises:
            SaveError: the checkpoint cannot be written.
        """
        trainer = Trainer(recipe, Ranks())
        try:
            state = trainer.state_dict()
        finally:
            trainer.close()
        own: Tensors = state["model"]
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

    def _others(self, own: Tensors) -> list[str]:
        """The names of tensors in which these weights and the network ``own`` differ."""
        names = dict.fromkeys((*own, *self.tensors))
        return [name for name in names if _kind(self.tensors.get(name)) != _kind(own.get(name))]


def _kind(value: Any) -> str:
    """The shape of a plain tensor, and whether it holds whole numbers; the type of other values."""
    if value is None:
        return "none"
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return "not a plain tensor"
    numbers = "" if value.is_floating_point() else " of whole numbers"
    return f"{tuple(value.shape)}{numbers}"


# --- published checkpoints


def import_published(
    file: Path, recipe: Recipe, path: Path, identity: dict[str, Any]
) -> tuple[RunFolder, int, int]:
    """Make a run of a published checkpoint: weights, their average, optimiser state and step.

    Nothing is left of the run if a tensor does not fit the recipe, or if a file cannot be written.

    Args:
        path: the folder of the new run.
        identity: the content of `run.json`, see `cld_core.run.identity`.

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
        raise UsageError(
            f"{file} is of step {step}, later than train.steps={recipe.train.steps}. Add "
            f"train.steps={step}."
        )
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
    """A file does not fit the recipe's network. The message names neither the file nor the fix."""


def read(file: Path, net: nn.Module, spec: OptimSpec) -> tuple[int, State]:
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
        raise WrongCheckpointError(
            f"{file}: {one_line(error)}. Choose the --recipe, or the network.* keys, that the "
            "checkpoint was trained with."
        ) from error
    except Exception as error:  # a file of another layout may raise any error
        raise WrongCheckpointError(
            f"{file}: not in the published layout ({type(error).__name__}: {one_line(error)}). "
            "Import a checkpoint that the published code wrote."
        ) from error


def _load(file: Path) -> State:
    if not file.is_file():
        raise NotFoundError(
            f"{file}: no such file. Pass a checkpoint, such as checkpoint_800000.pth."
        )
    try:
        # A mapped file cannot unpack to an arbitrary size. torch could take the bytes of a
        # compressed tensor for its numbers.
        if is_zip := zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise zipfile.BadZipFile("it is compressed")
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:
        with file.open("rb") as opened:
            start = opened.read(2)
        if start and not start.startswith(_STARTS):
            raise WrongCheckpointError(
                f"{file}: not a checkpoint: it cannot be read as plain tensors, and does not begin "
                "as a file of torch. Pass one that the published code wrote."
            ) from error
        raise CheckpointError(
            f"{file}: cannot be read as plain tensors ({type(error).__name__}). Download the file "
            "again."
        ) from error
    names = set(content) if isinstance(content, dict) else {f"a {type(content).__name__}"}
    if not (set(_KEYS) <= names or set(_LIGHTNING) <= names):
        keys = sorted(one_line(key, 40) for key in names)
        raise WrongCheckpointError(
            f"{file}: it holds {listed(keys) or 'nothing'}; a published "
            f"checkpoint holds {', '.join(_KEYS)}, or, if it is of PSLD's code, "
            f"{', '.join(_LIGHTNING)}. Import a checkpoint that the published code wrote."
        )
    return content


def _from_lightning(content: State, net: nn.Module) -> State:
    """A checkpoint of PSLD's code in the layout of the CLD code."""
    state = {str(name): tensor for name, tensor in content["state_dict"].items()}
    other = next((name for name in state if not name.startswith((_LIVE, _AVERAGE))), None)
    if other is not None:
        raise Mismatch(
            f"its tensor '{other}' belongs neither to {_LIVE[:-1]} nor to {_AVERAGE[:-1]}"
        )
    averages = [_AVERAGE + name for name in _trainable(net)]
    missing = next((name for name in averages if name not in state), None)
    if missing is not None:
        raise Mismatch(f"it has no tensor '{missing}'")
    optimisers = content["optimizer_states"]
    if len(optimisers) != 1:
        raise Mismatch(f"it has the states of {len(optimisers)} optimisers, not of one")
    step = content["global_step"]
    live = [name for name in state if name.startswith(_LIVE)]
    return {
        "model": {name.removeprefix(_LIVE): state[name] for name in live},
        "optimizer": optimisers[0],
        "ema": {"shadow_params": [state[name] for name in averages], "num_updates": step},
        "step": step,
    }


def _model(state: Tensors, net: nn.Module) -> Tensors:
    theirs = {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
    own = net.state_dict()
    for name in dict.fromkeys((*own, *theirs)):
        _require_alike(f"tensor '{name}'", theirs.get(name), own.get(name))
    return {name: theirs[name].to(tensor.dtype) for name, tensor in own.items()}


def _ema(state: State, net: nn.Module) -> State:
    trainable = _trainable(net)
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


def _trainable(net: nn.Module) -> Tensors:
    """The parameters of a network that are trained, by name."""
    return {name: tensor for name, tensor in net.named_parameters() if tensor.requires_grad}


def _optimiser(state: State, spec: OptimSpec, net: nn.Module) -> State:
    """The state of our optimiser: moments by the numbers that it gives to parameters."""
    parameters = dict(net.named_parameters())
    indices = [index for group in state["param_groups"] for index in group["params"]]
    by_index: dict[int, Tensors] = optim.portable(dict(state))["state"]
    # A file has the moments of all parameters, or of those that are trained.
    with_moments = parameters if len(indices) == len(parameters) else _trainable(net)
    if len(indices) != len(with_moments):
        raise Mismatch(
            f"its optimiser has {len(indices)} parameters, the recipe's network has "
            f"{len(parameters)}"
        )
    numbers = {name: number for number, name in enumerate(parameters)}
    moments = {}
    for index, name in zip(indices, with_moments, strict=True):
        if index in by_index:
            moments[numbers[name]] = _moments(by_index[index], spec, name, parameters[name])
    groups = optim.build(spec, net.parameters()).state_dict()["param_groups"]
    return {"state": moments, "param_groups": groups}


def _moments(theirs: Tensors, spec: OptimSpec, name: str, parameter: Tensor) -> Tensors:
    wanted = ("exp_avg", "exp_inf" if spec.name == "adamax" else "exp_avg_sq")
    for moment in wanted:
        if moment not in theirs:
            raise Mismatch(f"its optimiser has no {moment}, which optim.name={spec.name} needs")
        _require_alike(f"the optimiser's {moment} of '{name}'", theirs[moment], parameter)
    if theirs["step"].numel() != 1:
        raise Mismatch(f"the optimiser's step of '{name}' is not a number")
    return {"step": theirs["step"], **{moment: theirs[moment] for moment in wanted}}


def _count(value: Any, what: str) -> int:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    count = whole(value)
    if count is None:
        raise ValueError(f"its {what} is {one_line(repr(value), 40)}, not a whole number")
    return count


def _require_alike(what: str, theirs: Any, own: Tensor | None) -> None:
    if _kind(theirs) != _kind(own):
        raise Mismatch(f"{what} is {_kind(theirs)}, but {_kind(own)} in the recipe's network")
