"""What training carries from step to step, compared."""

from typing import Any

import torch
from torch import Tensor

from cld_core.train.step import Trainer


def taken(trainer: Trainer) -> dict[str, Any]:
    """Copies of the `parts` of what a trainer carries now."""
    return {what: copied(part) for what, part in parts(trainer.state_dict()).items()}


def parts(state: dict[str, Any]) -> dict[str, Any]:
    """All that a step changes, except for the loss scale, from the state of a trainer or checkpoint."""
    return {
        "weights": state["model"],
        "moments": state["optimiser"]["state"],
        "average": state["ema"],
        "statistics of gradients": state["gradients"],
        **({"power-function averages": state["power"]} if "power" in state else {}),
    }


def copied(value: Any) -> Any:
    """A copy of nested dictionaries of tensors and plain values."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return {name: copied(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def same(a: Any, b: Any) -> bool:
    """Whether two states of nested dictionaries are equal to the last bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b.to(a.device))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return bool(a == b)


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of the parts that differ."""
    return [name for name in before if not same(before[name], after[name])]


def difference(found: Any, expected: Any, start: Any) -> float:
    """The L2 distance of two states, in units of the distance of ``expected`` from ``start``.

    Nested dictionaries of the same names; what is not a floating-point tensor does not count.
    """
    pairs = list(zip(_tensors(found), _tensors(expected), _tensors(start), strict=True))
    error = sum(float((a - b).square().sum()) for a, b, _ in pairs)
    way = sum(float((b - c).square().sum()) for _, b, c in pairs)
    return float((error / way) ** 0.5)


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The L2 distance of two sets of tensors of the same names, in units of the norm of ``expected``."""
    return difference(found, expected, {name: torch.zeros_like(tensor) for name, tensor in expected.items()})


def _tensors(state: Any) -> list[Tensor]:
    """The floating-point tensors in order, float64 on the CPU."""
    if isinstance(state, Tensor):
        return [state.double().cpu()] if state.is_floating_point() else []
    return [tensor for name in state for tensor in _tensors(state[name])] if isinstance(state, dict) else []
