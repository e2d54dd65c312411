"""The exponential multistep sampler (docs/math.md section 7.2).

The reverse process is split into a linear part that is known, and solved exactly, and a rest that is smooth: a multiple
of alpha := -(s + known_precision * (scored half)) / ell_t, which is interpolated between evaluations. One evaluation a
step, of any score.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from cld_core.sampling.quadrature import segments
from cld_core.score import ScoreFunction
from cld_core.sde import SDE


@dataclass(frozen=True)
class Step:
    """Coefficients of one step for the n = 2 halves (x, v), n = 1 without phase space. Alphas come newest first."""

    transition: list[list[float]]  # (n, n), Phi
    predictor: list[list[float]]  # (order + 1, n): c_j of alpha at t_i, t_(i-1), ...
    correction: list[list[float]]  # (m, n): what alpha at t_(i+1), t_i, ... add once the first of them is known
    noise: list[list[float]] | None  # (n, n), lower Cholesky factor; None without noise


@functools.lru_cache(maxsize=64)
def steps(sde: SDE, times: tuple[float, ...], order: int, corrector: bool, eta: float) -> tuple[Step, ...]:
    """The coefficients for a grid, computed once for a pair of SDE and grid.

    Step i interpolates with degree min(order, i): the evaluations that there are. The corrector interpolates with
    degree max(order, 1), the end of the step being one of its points.
    """
    n = 2 if sde.phase_space else 1
    units = torch.eye(n, dtype=torch.float64)

    def strength(t: Tensor) -> Tensor:
        """Factor of -s in du/dt of the scored half."""
        return 0.5 * (1.0 + eta * eta) * sde.diffusion2(t)

    def matrix(t: Tensor) -> Tensor:
        drift = sde.drift(units.repeat(len(t), 1), t.repeat_interleave(n))  # row k n + j is F(t_k) e_j
        a = drift.unflatten(0, (len(t), n)).transpose(1, 2).clone()
        a[:, -1, -1] += strength(t) * sde.known_precision(t)
        return a

    out = []
    for i, segment in enumerate(segments(list(times), matrix)):
        scored = units[-1] * torch.ones(len(segment.times), 1, dtype=torch.float64)
        rest = scored * (strength(segment.times) * sde.ell(segment.times))[:, None]

        def weights(points: Sequence[float], segment=segment, rest=rest) -> list[list[float]]:
            basis = lagrange(sde, points, segment.times)
            return [segment.integral(rest * row[:, None]).tolist() for row in basis]

        past = times[i::-1]  # t_i, t_(i-1), ..., t_0
        predictor = weights(past[: order + 1])
        correction = []
        if corrector:
            improved = weights((times[i + 1], *past[: max(order, 1)]))
            correction = _difference(improved, [[0.0] * n, *predictor])
        noise = None
        if eta:
            white = scored * (eta * sde.diffusion2(segment.times).sqrt())[:, None]
            noise = torch.linalg.cholesky(segment.gram(white)).tolist()
        out.append(Step(segment.whole.tolist(), predictor, correction, noise))
    return tuple(out)


def lagrange(sde: SDE, points: Sequence[float], t: Tensor) -> Tensor:
    """Lagrange polynomials (len(points), K) of ``points`` at times t (K,), in the variable sqrt(B(t)).

    Not in t: of what was tried it follows alpha best near the data, and no steps depend on how fast beta runs.
    """
    root = sde.schedule.integral(t).sqrt()
    nodes = [math.sqrt(sde.schedule.integral(point)) for point in points]
    rows = []
    for j, here in enumerate(nodes):
        row = torch.ones_like(root)
        for m, other in enumerate(nodes):
            if m != j:
                row = row * ((root - other) / (here - other))
        rows.append(row)
    return torch.stack(rows)


def exponential(
    score: ScoreFunction,
    sde: SDE,
    u: Tensor,
    times: list[float],
    noise: Iterator[Tensor],
    *,
    order: int,
    corrector: bool,
    eta: float,
    denoise: bool,
) -> Tensor:
    """u (B, 2C or C, ...) at times[-1], from u at times[0], and one denoising step on if ``denoise``.

    One evaluation a step; the corrector uses that of the next step and so costs none.

    Args:
        noise: yields noise shaped as u once a step if ``eta`` > 0.
        order: degree of the interpolation, 0 to 3. The error falls with the power order + 1 of the number of steps.
        eta: 0 follows the probability flow, 1 the reverse SDE.
    """
    history: list[Tensor] = []
    correction: list[list[float]] = []

    def evaluate(t: float) -> None:
        """Take in alpha at u and t, and correct u with it."""
        alpha = score(u, t).add(sde.scored(u), alpha=sde.known_precision(t)).mul_(-1.0 / sde.ell(t))
        history.insert(0, alpha)
        _add(sde, u, correction, history)
        del history[order + 1 :]

    for step, (t, _) in zip(steps(sde, tuple(times), order, corrector, eta), pairwise(times), strict=True):
        evaluate(t)
        u = _linear(sde, u, step.transition)
        _add(sde, u, step.predictor, history)
        if step.noise is not None:
            u.add_(_linear(sde, next(noise), step.noise))
        correction = step.correction
    if not denoise:
        return u
    end = times[-1]
    evaluate(end)
    improved_score = history[0].mul(-sde.ell(end)).sub_(sde.scored(u), alpha=sde.known_precision(end))
    return sde.euler_step(u, improved_score, end, end)


def _halves(sde: SDE, u: Tensor) -> tuple[Tensor, ...]:
    return u.chunk(2 if sde.phase_space else 1, dim=1)


def _linear(sde: SDE, u: Tensor, matrix: list[list[float]]) -> Tensor:
    """The (n, n) matrix applied to the halves of u; u is not changed."""
    out = torch.empty_like(u)
    halves = _halves(sde, u)
    for target, row in zip(_halves(sde, out), matrix, strict=True):
        torch.mul(halves[0], row[0], out=target)
        for half, factor in zip(halves[1:], row[1:], strict=True):
            target.add_(half, alpha=factor)
    return out


def _add(sde: SDE, u: Tensor, weights: list[list[float]], alphas: list[Tensor]) -> None:
    """u += the sum of weights_j alpha_j, in place."""
    for column, alpha in zip(weights, alphas, strict=False):
        for half, factor in zip(_halves(sde, u), column, strict=True):
            half.add_(alpha, alpha=factor)


def _difference(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    """a - b, the shorter one continued with zeros."""
    n, m = len(a[0]), max(len(a), len(b))
    a, b = (rows + [[0.0] * n] * (m - len(rows)) for rows in (a, b))
    return [[x - y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]
