"""Checkpoints in the layout of the published code -> checkpoints of ours.

The layout: ``model`` (names under `module.`), ``optimizer`` (of all parameters, in order), ``ema`` (``shadow_params``,
a list of the trainable parameters in order, and ``num_updates``) and ``step``. Read with weights_only, so a file from
the net cannot run code.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import nets, optim, sde
from .data.source import source
from .errors import CheckpointError, NotFoundError
from .recipe import Recipe

KEYS = ("model", "optimizer", "ema", "step")
# Of a file of another kind so many of its keys tell what it is.
_SHOWN = 6
_FIX = "Choose the --recipe, or the network.* keys, that the checkpoint was trained with"


def read(file: str | Path, recipe: Recipe) -> dict[str, Any]:
    """The state of our checkpoint, with its ``step``, that a published checkpoint stands for.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: it has another layout, or a tensor does not fit the recipe's network: the message names
            the first such tensor and both shapes.
    """
    content = _load(Path(file))
    process = sde.build(recipe.sde)
    net = nets.build(recipe.network, data_shape=source(recipe.data).shape, phase_space=process.phase_space)
    try:
        return {
            "step": int(content["step"]),
            "model": _model(content["model"], net),
            "ema": _ema(content["ema"], net),
            "optimiser": _optimiser(content["optimizer"], recipe, net),
            "scaler": {},
            "model_digest": recipe.model_digest(),
        }
    except _Mismatch as error:
        raise CheckpointError(f"{file}: {error}. {_FIX}.") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        text = f"not in the published layout ({type(error).__name__}: {error})"
        raise CheckpointError(f"{file}: {text}. Import a checkpoint that the published code wrote.") from error


class _Mismatch(Exception):
    """A tensor that is not what the recipe's network has."""


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise NotFoundError(f"there is no file {file}. Name a checkpoint, such as checkpoint_800000.pth.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{file}: cannot be read as plain tensors ({type(error).__name__}). Fetch the file again."
        ) from error
    if not isinstance(content, dict) or not set(KEYS) <= set(content):
        keys = sorted(map(str, content)) if isinstance(content, dict) else [f"a {type(content).__name__}"]
        more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
        text = f"it holds {', '.join(keys[:_SHOWN]) or 'nothing'}{more}; a published checkpoint holds {', '.join(KEYS)}"
        raise CheckpointError(f"{file}: {text}. Import a checkpoint that the published code wrote.")
    return content


def _model(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    found = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    own = net.state_dict()
    for name, tensor in own.items():
        if name not in found:
            raise _Mismatch(f"it has no tensor '{name}', which is {_shape(tensor)} in the recipe's network")
        _check_shape(f"tensor '{name}'", found[name], tensor)
    if unknown := [name for name in found if name not in own]:
        name = unknown[0]
        raise _Mismatch(f"its tensor '{name}', {_shape(found[name])}, is not in the recipe's network")
    return {name: found[name].to(own[name].dtype) for name in own}


def _ema(state: Mapping[str, Any], net: nn.Module) -> dict[str, Any]:
    trainable = [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
    averages: Sequence[Tensor] = state["shadow_params"]
    for (name, parameter), average in zip(trainable, averages, strict=False):
        _check_shape(f"the average of '{name}'", average, parameter)
    if len(averages) != len(trainable):
        raise _Mismatch(f"it averages {len(averages)} tensors, the recipe's network has {len(trainable)} to average")
    named = dict(zip([name for name, _ in trainable], averages, strict=True))
    return {"updates": int(state["num_updates"]), "average": named}


def _optimiser(state: Mapping[str, Any], recipe: Recipe, net: nn.Module) -> dict[str, Any]:
    """The moments, under the places that the parameters have in our optimiser."""
    named = list(net.named_parameters())
    theirs = [index for group in state["param_groups"] for index in group["params"]]
    places = [place for place, (_, parameter) in enumerate(named) if parameter.requires_grad]
    if len(theirs) == len(named):
        places = list(range(len(named)))
    elif len(theirs) != len(places):
        raise _Mismatch(f"its optimiser has {len(theirs)} parameters, the recipe's network has {len(named)}")
    theirs_by_index = optim.portable(dict(state))["state"]
    moments: dict[int, dict[str, Tensor]] = {}
    for index, place in zip(theirs, places, strict=True):
        name, parameter = named[place]
        found: dict[str, Tensor] | None = theirs_by_index.get(index)
        if found is None:
            continue
        for moment in optim.moments(recipe.optim):
            if moment not in found:
                raise _Mismatch(f"its optimiser has no {moment}, which optim.name={recipe.optim.name} needs")
            _check_shape(f"the optimiser's {moment} of '{name}'", found[moment], parameter)
        moments[place] = {"step": found["step"], **{moment: found[moment] for moment in optim.moments(recipe.optim)}}
    groups = optim.build(recipe.optim, net.parameters()).state_dict()["param_groups"]
    return {"state": moments, "param_groups": groups}


def _check_shape(what: str, found: Tensor, own: Tensor) -> None:
    if found.shape != own.shape:
        raise _Mismatch(f"{what} is {_shape(found)}, but {_shape(own)} in the recipe's network")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
