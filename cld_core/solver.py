"""Dormand-Prince 5(4) with a step size for every row, so that no row's result depends on its
neighbours.

The step control is scipy's RK45, row by row: a single row takes scipy's steps
(tests/cld_core/test_solver.py). Rows that have reached the end leave the batch, some of them a
little later, so the work is about the sum of what each row needs (docs/math.md section 9). The host
waits for the device once per step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cld_core.errors import SolverError

# (t: (b,), y: (b, n), rows: (b,) indices of the rows in the whole batch) -> dy/dt: (b, n).
Field = Callable[[Any, Tensor, Tensor], Tensor]
Prepare = Callable[[Tensor], Sequence[Any]]


@dataclass(frozen=True)
class Steps:
    """One step of b rows that `solve` has tried: what an observer needs to know the solution in
    between."""

    rows: Tensor  # (b,) indices of the rows in the whole batch
    accepted: Tensor  # (b,) bool; rows at the end have steps of size 0
    t: tuple[Tensor, Tensor]  # (b,) each, before and after
    y: tuple[Tensor, Tensor]  # (b, n) each
    slope: tuple[Tensor, Tensor]  # (b, n) each, dy/dt


Observer = Callable[[Steps], None]

# The stages of a step after the first, as fractions of it. The last one's time is also that of the
# next step's first.
_C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
# Fifth-order minus fourth-order weights.
_E = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)

_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0
_ORDER = 5
_SMALLEST_STEP = 1e-15


@dataclass(frozen=True)
class Solution:
    """``y`` (B, n), float64, at the end time, and ``nfe`` (B,), int64, the evaluations that each
    row took."""

    y: Tensor
    nfe: Tensor


@dataclass
class _Rows:
    """The rows in progress, packed; some that have arrived may be among them."""

    index: Tensor
    t: Tensor
    y: Tensor
    h: Tensor
    slope: Tensor
    rejected: Tensor  # whether the last step was
    done: Tensor
    nfe: Tensor

    def keep(self, which: Tensor) -> "_Rows":
        return _Rows(
            *(getattr(self, name).index_select(0, which) for name in self.__dataclass_fields__)
        )


class _Step:
    """Steps of up to B rows of n numbers, in memory that is allocated once.

    Args:
        y: (B, n).
    """

    def __init__(self, field: Field, prepare: Prepare, sign: float, y: Tensor) -> None:
        self._field = field
        self._prepare = prepare
        self._sign = sign
        self._slopes = torch.empty(7, y.numel(), dtype=torch.float64, device=y.device)
        # One table, because each copy to a device waits for it.
        table = [(*row, *[0.0] * (7 - len(row))) for row in (*_A, _B, _E, _C)]
        *weights, fractions = torch.tensor(table, dtype=torch.float64, device=y.device)
        self._weights = [row[None, : i + 1] for i, row in enumerate(weights)]
        self._fractions = fractions[: len(_C), None]

    def __call__(self, rows: _Rows, h: Tensor, t_new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of every row: the new state and its slope, and the error of the state per unit
        of h, each (b, n)."""
        shape = rows.y.shape
        step = (self._sign * h)[:, None].expand(shape).contiguous()
        times = torch.addcmul(rows.t, self._fractions, self._sign * h)
        times[-1] = t_new
        slopes = self._slopes[:, : shape.numel()]
        slopes[0].view(shape).copy_(rows.slope)
        stages = self._prepare(times)
        # The sixth stage is at the fifth's time; it is the first of the next step.
        for i, at in enumerate((*stages, stages[-1]), start=1):
            y = torch.addcmul(rows.y, step, (self._weights[i - 1] @ slopes[:i]).view(shape))
            slope = self._field(at, y, rows.index)
            slopes[i].view(shape).copy_(slope)
        return y, slope, (self._weights[-1] @ slopes).view(shape)


@torch.no_grad()
def solve(
    field: Field,
    y0: Tensor,
    start: float,
    end: float,
    *,
    rtol: float,
    atol: float,
    max_steps: int = 10_000,
    prepare: Prepare = torch.unbind,
    observe: Observer | None = None,
) -> Solution:
    """Integrate dy/dt = field(t, y) from ``start`` to ``end``, which may be earlier than ``start``.

    A row's error is the root mean square over its n components of error / (atol + rtol |y|).

    Args:
        y0: (B, n). The state is float64 whatever ``y0`` is; the field may compute in less
            precision.
        max_steps: the largest number of steps of a row, including rejected ones.
        prepare: from the times (k, b) of a step, the k objects that the field gets in the place of
            each t. What depends on the time alone is cheaper for all stages at once.
        observe: is shown every step, and changes nothing.

    Raises:
        SolverError: a row does not reach the end, or its step size becomes too small.
    """
    solution = Solution(
        y0.to(torch.float64, copy=True), torch.zeros(len(y0), dtype=torch.int64, device=y0.device)
    )
    rows = _begin(field, prepare, solution.y, start, end, rtol, atol)
    _check(rows)
    sign = math.copysign(1.0, end - start)
    take_step = _Step(field, prepare, sign, solution.y)
    for _ in range(max_steps):
        # A step that would end within rounding of the end goes there.
        left = (end - rows.t).abs()
        last = rows.h >= left * (1.0 - 1e-10)
        h = torch.where(last, left, rows.h)
        t = (rows.t + sign * h).masked_fill_(last, end)
        y, slope, estimate = take_step(rows, h, t)
        scale = torch.maximum(rows.y.abs(), y.abs()).mul_(rtol).add_(atol)
        error = _norm(estimate / scale) * h
        if observe is not None:
            observe(Steps(rows.index, error < 1.0, (rows.t, t), (rows.y, y), (rows.slope, slope)))
        rows, active = _after(rows, h, t, y, slope, last, error)
        size = _size(active)
        if size < len(h):
            solution.y[rows.index], solution.nfe[rows.index] = rows.y, rows.nfe
            if not active:
                return solution
            rows = rows.keep(rows.done.to(torch.uint8).argsort(stable=True)[:size])
    raise _error(rows, f"{max_steps} steps are not enough")


def _after(
    rows: _Rows, h: Tensor, t: Tensor, y: Tensor, slope: Tensor, last: Tensor, error: Tensor
) -> tuple[_Rows, int]:
    """The rows after steps of size h to t, y and slope, if their errors (b,) allow; and how many
    are not at the end.

    Rows at the end stand still, with steps of size 0, until the others are few enough to be packed.

    Raises:
        SolverError: a step size becomes too small.
    """
    accepted = error < 1.0
    done = (accepted & last).logical_or_(rows.done)
    h = (h * _factor(error, rows.rejected)).masked_fill_(done, 1.0)
    # The only time that the host waits. (`torch.where` with a number is another, since it is copied
    # to the device.)
    counts = (mask.sum(dtype=torch.float64) for mask in (accepted, done))
    shortest, longest, good, at_end = torch.stack([*torch.aminmax(h), *counts]).tolist()
    if good < len(h):
        took = accepted[:, None]
        t = torch.where(accepted, t, rows.t)
        y, slope = torch.where(took, y, rows.y), torch.where(took, slope, rows.slope)
    nfe = rows.nfe + 6 * ~rows.done
    after = _Rows(rows.index, t, y, h, slope, ~accepted, done, nfe)
    if not (shortest > _SMALLEST_STEP and longest < math.inf):
        _check(after)
    return after, len(h) - int(at_end)


def _size(rows: int) -> int:
    """The number of rows to go on with, at least ``rows``: every number up to 16, then eight to
    each doubling.

    Libraries prepare for each size of a batch that is new to them, which takes oneDNN half a
    millisecond for a layer.
    """
    step = 1 << max(0, (rows - 1).bit_length() - 4)
    return -(-rows // step) * step


def _begin(
    field: Field, prepare: Prepare, y: Tensor, start: float, end: float, rtol: float, atol: float
) -> _Rows:
    """All rows at the start, with the first step size of Hairer, Norsett, Wanner, Solving ODEs I,
    section II.4.

    One Euler step of a guessed size gives it.
    """
    index = torch.arange(len(y), device=y.device)
    t = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    slope = field(prepare(t[None])[0], y, index).to(torch.float64)
    span, sign = abs(end - start), math.copysign(1.0, end - start)
    scale = atol + rtol * y.abs()
    d0, d1 = _norm(y / scale), _norm(slope / scale)
    h0 = (0.01 * d0 / d1).masked_fill_((d0 < 1e-5) | (d1 < 1e-5), 1e-6).clamp_(max=span)
    probe = field(prepare((t + sign * h0)[None])[0], y + (sign * h0)[:, None] * slope, index)
    d2 = _norm((probe - slope) / scale) / h0
    largest = torch.maximum(d1, d2)
    h1 = torch.where(
        largest <= 1e-15, (h0 * 1e-3).clamp_(min=1e-6), (0.01 / largest) ** (1.0 / _ORDER)
    )
    h = torch.minimum(100.0 * h0, h1).clamp(max=span)
    no = torch.zeros_like(index, dtype=torch.bool)
    return _Rows(index, t, y.clone(), h, slope, no, no, torch.full_like(index, 2))


def _norm(y: Tensor) -> Tensor:
    """Root mean square of each row, (b,)."""
    return torch.linalg.vector_norm(y, dim=1) * (1.0 / math.sqrt(y.shape[1]))


def _factor(error: Tensor, rejected: Tensor) -> Tensor:
    """What step sizes are multiplied by, (b,); ``rejected`` says which rows' last steps were.

    An accepted step, whose error is below 1, after a rejection does not grow the next one. NaN
    shrinks the most.
    """
    factor = (_SAFETY * error ** (-1.0 / _ORDER)).nan_to_num_(_SHRINK).clamp_(_SHRINK, _GROW)
    return torch.where(rejected, factor.clamp(max=1.0), factor)


def _check(rows: _Rows) -> None:
    """Raise SolverError if a row has no step size to go on with."""
    if bool((rows.h <= _SMALLEST_STEP).any()) or not bool(torch.isfinite(rows.h).all()):
        raise _error(rows, "the step size became too small")


def _error(rows: _Rows, why: str) -> SolverError:
    worst = int(rows.h.nan_to_num(0.0).argmin())
    return SolverError(
        f"adaptive solver: {why} for {int((~rows.done).sum())} row(s); row "
        f"{int(rows.index[worst])} is at t = "
        f"{float(rows.t[worst]):.3g}, step {float(rows.h[worst]):.3g}, |y| up to "
        f"{float(rows.y[worst].abs().max()):.3g}. "
        "Raise rtol and atol, or check that the network is trained and its output is finite."
    )
