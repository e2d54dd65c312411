"""Checkpoints of PSLD's published code, which PyTorch Lightning writes, in the layout of those of the CLD code.

The layout: ``state_dict`` (names under `score_fn.` for the network and `ema_score_fn.` for the average of its weights),
``optimizer_states`` (one, of all parameters of the network in order), ``global_step`` and ``epoch``.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from .mismatch import Mismatch

KEYS = ("state_dict", "optimizer_states", "global_step")
_LIVE, _AVERAGE = "score_fn.", "ema_score_fn."


def is_lightning(content: Mapping[str, Any]) -> bool:
    return set(KEYS) <= set(content)


def as_published(content: Mapping[str, Any], net: nn.Module) -> dict[str, Any]:
    """Its content with the keys of `published.KEYS`, for a network like ``net``.

    Raises:
        Mismatch: it belongs to something else than a diffusion, or lacks the average of a tensor.
    """
    state = {str(name): tensor for name, tensor in content["state_dict"].items()}
    other = next((name for name in state if not name.startswith((_LIVE, _AVERAGE))), None)
    if other is not None:
        raise Mismatch(f"its tensor '{other}' belongs neither to {_LIVE[:-1]} nor to {_AVERAGE[:-1]}")
    averages = []
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            if _AVERAGE + name not in state:
                raise Mismatch(f"it has no tensor '{_AVERAGE}{name}'")
            averages.append(state[_AVERAGE + name])
    optimisers = content["optimizer_states"]
    if len(optimisers) != 1:
        raise Mismatch(f"it has the states of {len(optimisers)} optimisers, not of one")
    step = content["global_step"]
    return {
        "model": {name.removeprefix(_LIVE): tensor for name, tensor in state.items() if name.startswith(_LIVE)},
        "optimizer": optimisers[0],
        "ema": {"shadow_params": averages, "num_updates": step},
        "step": step,
    }
