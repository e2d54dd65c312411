"""Dormand-Prince 5(4) with a step size for every row of a batch.

No row's result depends on the others. The step control is that of scipy's RK45, row by row: a
single row takes scipy's steps (tests/cld_core/test_solver.py). Rows that have reached the end leave
the batch, at once or a little later, so the work is about the sum over the rows (docs/math.md
section 9). The host waits for the device once per step.
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
    """A step of b rows, accepted or not, from which an observer can interpolate the solution.

    Attributes:
        rows: (b,), indices of the rows in the whole batch.
        accepted: (b,), bool; rows at the end have steps of size 0.
        t: (b,) each, before and after the step.
        y: (b, n) each.
        slope: (b, n) each, dy/dt.
    """

    rows: Tensor
    accepted: Tensor
    t: tuple[Tensor, Tensor]
    y: tuple[Tensor, Tensor]
    slope: tuple[Tensor, Tensor]


Observer = Callable[[Steps], None]

# Times of the stages after the first, as fractions of a step. The last one is also the first of the
# next step.
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

_SAFETY = 0.9
_SHRINK = 0.2
_GROW = 10.0
_ORDER = 5
_SMALLEST_STEP = 1e-15


@dataclass(frozen=True)
class Solution:
    """The state at the end time, and the evaluations of each row."""

    y: Tensor  # (B, n), float64
    nfe: Tensor  # (B,), int64


@dataclass
class _Rows:
    """The rows in progress, packed; some that have reached the end may be among them."""

    index: Tensor
    t: Tensor
    y: Tensor
    h: Tensor
    slope: Tensor
    rejected: Tensor  # whether the last step was rejected
    done: Tensor
    nfe: Tensor

    def keep(self, which: Tensor) -> "_Rows":
        return _Rows(*(part.index_select(0, which) for part in vars(self).values()))


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
        """One step of every row.

        Returns:
            The new state, its slope, and the error of the state per unit of h, each (b, n).
        """
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
        y0: the initial state (B, n), in any floating type. The state is float64; the field may
            compute in less precision.
        max_steps: the largest number of steps of a row, rejected ones included.
        prepare: makes, from the times (k, b) of a step, the k objects that the field gets in place
            of t. Quantities that depend on the time alone are cheaper for all stages at once.
        observe: is called with every step, and changes nothing.

    Raises:
        SolverError: a row does not reach the end, or its step size becomes too small.
    """
    nfe = torch.zeros(len(y0), dtype=torch.int64, device=y0.device)
    solution = Solution(y0.to(torch.float64, copy=True), nfe)
    rows = _begin(field, prepare, solution.y, start, end, rtol, atol)
    _check(rows)
    sign = math.copysign(1.0, end - start)
    take_step = _Step(field, prepare, sign, solution.y)
    for _ in range(max_steps):
        # A step that would end within rounding of the end time ends there.
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
            solution.y[rows.index] = rows.y
            solution.nfe[rows.index] = rows.nfe
            if not active:
                return solution
            rows = rows.keep(rows.done.to(torch.uint8).argsort(stable=True)[:size])
    raise _error(rows, f"{max_steps} steps are not enough")


def _after(
    rows: _Rows, h: Tensor, t: Tensor, y: Tensor, slope: Tensor, last: Tensor, error: Tensor
) -> tuple[_Rows, int]:
    """The rows after steps of size h to t, y and slope, which are accepted if their errors (b,)
    are below 1; and the number of rows that are not at the end.

    Rows at the end have steps of size 0, until so few others are left that these are packed.

    Raises:
        SolverError: a step size becomes too small.
    """
    accepted = error < 1.0
    done = (accepted & last).logical_or_(rows.done)
    h = (h * _factor(error, rows.rejected)).masked_fill_(done, 1.0)
    # The host waits here only. (It would also wait for `torch.where` with a number, which is copied
    # to the device.)
    counts = (mask.sum(dtype=torch.float64) for mask in (accepted, done))
    shortest, longest, good, at_end = torch.stack([*torch.aminmax(h), *counts]).tolist()
    if good < len(h):
        t = torch.where(accepted, t, rows.t)
        y = torch.where(accepted[:, None], y, rows.y)
        slope = torch.where(accepted[:, None], slope, rows.slope)
    nfe = rows.nfe + 6 * ~rows.done
    after = _Rows(rows.index, t, y, h, slope, ~accepted, done, nfe)
    if not (shortest > _SMALLEST_STEP and longest < math.inf):
        _check(after)
    return after, len(h) - int(at_end)


def _size(rows: int) -> int:
    """The size of the next batch, at least ``rows``: any up to 16, then eight to each doubling.

    For each new size of a batch, libraries prepare their kernels, which takes oneDNN half a
    millisecond for a layer.
    """
    step = 1 << max(0, (rows - 1).bit_length() - 4)
    return -(-rows // step) * step


def _begin(
    field: Field, prepare: Prepare, y: Tensor, start: float, end: float, rtol: float, atol: float
) -> _Rows:
    """All rows at the start, with the first step size.

    It comes from one Euler step of a guessed size (Hairer, Norsett, Wanner, Solving ODEs I, section
    II.4).
    """
    index = torch.arange(len(y), device=y.device)
    t = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    slope = field(prepare(t[None])[0], y, index).double()
    span = abs(end - start)
    sign = math.copysign(1.0, end - start)
    scale = atol + rtol * y.abs()
    d0 = _norm(y / scale)
    d1 = _norm(slope / scale)
    h0 = (0.01 * d0 / d1).masked_fill_((d0 < 1e-5) | (d1 < 1e-5), 1e-6).clamp_(max=span)
    probe = field(prepare((t + sign * h0)[None])[0], y + (sign * h0)[:, None] * slope, index)
    d2 = _norm((probe - slope) / scale) / h0
    largest = torch.maximum(d1, d2)
    of_slopes = (0.01 / largest) ** (1.0 / _ORDER)
    h1 = torch.where(largest <= 1e-15, (h0 * 1e-3).clamp_(min=1e-6), of_slopes)
    h = torch.minimum(100.0 * h0, h1).clamp(max=span)
    no = torch.zeros_like(index, dtype=torch.bool)
    return _Rows(index, t, y.clone(), h, slope, no, no, torch.full_like(index, 2))


def _norm(y: Tensor) -> Tensor:
    """Root mean square of each row, (b,)."""
    return torch.linalg.vector_norm(y, dim=1) * (1.0 / math.sqrt(y.shape[1]))


def _factor(error: Tensor, rejected: Tensor) -> Tensor:
    """The factors of the step sizes, (b,).

    After a rejected step the size does not grow. An error of NaN shrinks it the most.
    """
    factor = (_SAFETY * error ** (-1.0 / _ORDER)).nan_to_num_(_SHRINK).clamp_(_SHRINK, _GROW)
    return torch.where(rejected, factor.clamp(max=1.0), factor)


def _check(rows: _Rows) -> None:
    """Raise SolverError if the step size of a row is too small to continue."""
    if bool((rows.h <= _SMALLEST_STEP).any()) or not bool(torch.isfinite(rows.h).all()):
        raise _error(rows, "the step size became too small")


def _error(rows: _Rows, why: str) -> SolverError:
    worst = int(rows.h.nan_to_num(0.0).argmin())
    return SolverError(
        f"adaptive solver: {why} for {int((~rows.done).sum())} row(s); row "
        f"{int(rows.index[worst])} is at t = {float(rows.t[worst]):.3g}, step "
        f"{float(rows.h[worst]):.3g}, |y| up to {float(rows.y[worst].abs().max()):.3g}. Raise rtol "
        f"and atol, or check that the network is trained and its output is finite."
    )
