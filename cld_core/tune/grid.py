"""Grids of times with unconstrained parameters: the times decrease whatever the parameters are."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cld_core.sde.schedule import Schedule

from .linear import POWER

_STEP = 1e-3


def shares(schedule: Schedule, times: Sequence[float]) -> Tensor:
    """Logarithms of the steps of a grid relative to the last one, which is left out: (steps - 1,)."""
    places = torch.tensor([schedule.integral(t) ** (1.0 / POWER) for t in times], dtype=torch.float64)
    steps = (places[:-1] - places[1:]).log()
    return steps[:-1] - steps[-1]


def times(schedule: Schedule, shares: Tensor, eps: float) -> list[float]:
    """The grid of such shares from 1 to ``eps``."""
    first, last = (schedule.integral(t) ** (1.0 / POWER) for t in (1.0, eps))
    passed = torch.softmax(torch.cat([shares, shares.new_zeros(1)]), 0).cumsum(0)[:-1].tolist()
    return [1.0, *(schedule.time((first + (last - first) * share) ** POWER) for share in passed), eps]


def linearised(errors: Callable[[Tensor], Tensor], shares: Tensor) -> tuple[Tensor, Tensor]:
    """Errors (B, D) and their derivatives (P, B, D) with respect to the shares (P,), by finite differences."""
    here = errors(shares)
    moved = (errors(shares + _STEP * unit) for unit in torch.eye(len(shares), dtype=torch.float64))
    return here, torch.stack([(there - here) / _STEP for there in moved])
