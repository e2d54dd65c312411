"""Dormand-Prince 5(4) with a step size for every row, so that no row's result depends on its neighbours.

The step control is scipy's RK45, row by row: a single row takes scipy's steps (tests/cld_core/test_solver.py).
Rows that have reached the end leave the batch, so the work is the sum of what each row needs (docs/math.md section 9).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.errors import SolverError

# (t: (b,), y: (b, n), rows: (b,) indices of the rows in the whole batch) -> dy/dt: (b, n).
Field = Callable[[Tensor, Tensor, Tensor], Tensor]

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


@dataclass(frozen=True)
class Solution:
    """``y`` (B, n), float64, at the end time, and ``nfe`` (B,), int64, the evaluations that each row took."""

    y: Tensor
    nfe: Tensor


def _norm(y: Tensor) -> Tensor:
    """Root mean square of each row, (b,)."""
    return torch.linalg.vector_norm(y, dim=1) * (1.0 / math.sqrt(y.shape[1]))


@dataclass
class _Rows:
    """The rows in progress, packed."""

    index: Tensor
    t: Tensor
    y: Tensor
    h: Tensor
    slope: Tensor
    rejected: Tensor

    def keep(self, mask: Tensor) -> "_Rows":
        return _Rows(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))


def _first_step(
    field: Field, t: Tensor, y: Tensor, slope: Tensor, span: float, rows: Tensor, rtol: float, atol: float
) -> Tensor:
    """Hairer, Norsett, Wanner, Solving ODEs I, section II.4: one Euler step of a guessed size gives the first size."""
    sign = math.copysign(1.0, span)
    scale = atol + rtol * y.abs()
    d0, d1 = _norm(y / scale), _norm(slope / scale)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).clamp(max=abs(span))
    probe = field(t + sign * h0, y + (sign * h0)[:, None] * slope, rows)
    d2 = _norm((probe - slope) / scale) / h0
    largest = torch.maximum(d1, d2)
    h1 = torch.where(largest <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / largest) ** (1.0 / _ORDER))
    return torch.minimum(100.0 * h0, h1).clamp(max=abs(span))


@torch.no_grad()
def solve(
    field: Field, y0: Tensor, start: float, end: float, *, rtol: float, atol: float, max_steps: int = 10_000
) -> Solution:
    """Integrate dy/dt = field(t, y) from ``start`` to ``end``, which may be earlier than ``start``.

    A row's error is the root mean square over its n components of error / (atol + rtol |y|).

    Args:
        y0: (B, n). The state is float64 whatever ``y0`` is; the field may compute in less precision.
        max_steps: the largest number of steps of a row, including rejected ones.

    Raises:
        SolverError: a row does not reach the end, or its step size becomes too small.
    """
    batch = len(y0)
    out = y0.to(torch.float64, copy=True)
    nfe = torch.zeros(batch, dtype=torch.int64, device=y0.device)
    sign = math.copysign(1.0, end - start)
    index = torch.arange(batch, device=y0.device)
    t = torch.full((batch,), start, dtype=torch.float64, device=y0.device)
    slope = field(t, out, index)
    h = _first_step(field, t, out, slope, end - start, index, rtol, atol)
    rows = _Rows(index, t, out.clone(), h, slope, torch.zeros_like(index, dtype=torch.bool))
    evaluations = 2
    weights = [torch.tensor([a], dtype=torch.float64, device=y0.device) for a in (*_A, _B, _E)]

    for _ in range(max_steps):
        # A step that would end within rounding of the end goes there.
        left = (end - rows.t).abs()
        last = rows.h >= left * (1.0 - 1e-10)
        h = torch.where(last, left, rows.h)
        t_new = torch.where(last, end, rows.t + sign * h)
        if bool((h <= 1e-15).any()) or not bool(torch.isfinite(h).all()):
            _fail(rows, h, "the step size became too small")
        y, slope, estimate = _trial(field, rows, sign, h, t_new, weights)
        evaluations += 6
        scale = torch.maximum(rows.y.abs(), y.abs()).mul_(rtol).add_(atol)
        error = _norm(estimate / scale) * h
        accepted = error < 1.0
        took = accepted[:, None]
        rows = _Rows(
            rows.index,
            torch.where(accepted, t_new, rows.t),
            torch.where(took, y, rows.y),
            h * _factor(error, accepted, rows.rejected),
            torch.where(took, slope, rows.slope),
            ~accepted,
        )
        arrived = rows.t == end
        if bool(arrived.any()):
            done = rows.index[arrived]
            out[done] = rows.y[arrived]
            nfe[done] = evaluations
            if bool(arrived.all()):
                return Solution(out, nfe)
            rows = rows.keep(~arrived)
    _fail(rows, rows.h, f"{max_steps} steps are not enough")
    raise AssertionError("unreachable: _fail raises")


def _trial(
    field: Field, rows: _Rows, sign: float, h: Tensor, t_new: Tensor, weights: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of every row: the new state and its slope, and the error of the state per unit of h, each (b, n)."""
    b, n = rows.y.shape
    step = (sign * h)[:, None]
    slopes = torch.empty(7, b * n, dtype=torch.float64, device=h.device)
    slopes[0] = rows.slope.reshape(-1)
    for i, (c, a) in enumerate(zip(_C, weights, strict=False), start=1):
        y = torch.addcmul(rows.y, step, (a @ slopes[:i]).view(b, n))
        slopes[i] = field(rows.t + (sign * c) * h, y, rows.index).reshape(-1)
    y = torch.addcmul(rows.y, step, (weights[5] @ slopes[:6]).view(b, n))
    slope = field(t_new, y, rows.index)
    slopes[6] = slope.reshape(-1)
    return y, slope, (weights[6] @ slopes).view(b, n)


def _factor(error: Tensor, accepted: Tensor, rejected: Tensor) -> Tensor:
    """What step sizes are multiplied by, (b,); ``rejected`` says which rows' last steps were.

    An accepted step after a rejection does not grow the next one. A rejected step shrinks, NaN the most.
    """
    factor = _SAFETY * error ** (-1.0 / _ORDER)
    ceiling = torch.where(rejected, 1.0, _GROW)
    return torch.where(accepted, torch.minimum(factor, ceiling), factor.nan_to_num(_SHRINK).clamp(min=_SHRINK))


def _fail(rows: _Rows, h: Tensor, why: str) -> None:
    worst = int(h.nan_to_num(0.0).argmin())
    raise SolverError(
        f"adaptive solver: {why} for {len(h)} row(s); row {int(rows.index[worst])} is at t = "
        f"{float(rows.t[worst]):.3g}, step {float(h[worst]):.3g}, |y| up to {float(rows.y[worst].abs().max()):.3g}. "
        "Raise rtol and atol, or check that the network is trained and its output is finite."
    )
