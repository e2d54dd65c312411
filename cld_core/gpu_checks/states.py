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
    }


def copied(value: Any) -> Any:
    """A copy of nested dictionaries of tensors and plain values."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return {name: copied(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors in nested dictionaries, by their dotted names."""
    if isinstance(value, Tensor):
        return {name: value}
    if not isinstance(value, dict):
        return {}
    found: dict[str, Tensor] = {}
    for key, inner in value.items():
        found |= tensors(inner, f"{name}.{key}" if name else str(key))
    return found


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


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The relative L2 distance of two sets of tensors of the same names."""
    pairs = [(found[name].double().cpu(), tensor.double().cpu()) for name, tensor in expected.items()]
    squares = sum(float((a - b).square().sum()) for a, b in pairs)
    return float((squares / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5)
