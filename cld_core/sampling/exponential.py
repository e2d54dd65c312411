"""The exponential multistep sampler (docs/math.md section 7.2).

The reverse process is split into a linear part that is known, and solved exactly, and a rest that is smooth: a multiple
of alpha (`halves.rest`), which is interpolated between evaluations. It takes one evaluation per step, of any score.
"""

import functools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.analytic import gaussian
from cld_core.recipe.sampling import ExponentialSpec
from cld_core.sampling.grids import grid_of
from cld_core.sampling.halves import Matrix, add, linear, rest, score_from_rest
from cld_core.sampling.noise import Draws
from cld_core.sampling.path import UNWATCHED, Watcher
from cld_core.sampling.quadrature import Segment, segments
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.coefficients import stacked

_log = logging.getLogger(__name__)
# Data narrow enough to show noise that grows from step to step, and how much wider samples of them may be.
_NARROW_STD, _MOST_WIDENING = 0.04, 2.0


@dataclass(frozen=True)
class Step:
    """Coefficients of one step. Alphas come newest first."""

    transition: Matrix  # (n, n), Phi
    predictor: list[Matrix]  # order + 1 times (n, m): c_j of alpha at t_i, t_(i-1), ...
    correction: list[Matrix]  # each (n, m): what alpha at t_(i+1), t_i, ... add once the first of them is known
    noise: Matrix | None  # (n, n), lower Cholesky factor; None without noise


def sample(
    score: ScoreFunction, sde: Diffusion, spec: ExponentialSpec, u: Tensor, draws: Draws, watcher: Watcher = UNWATCHED
) -> tuple[Tensor, int]:
    """See `cld_core.sampling`.

    One evaluation per step. The corrector uses that of the next step, or of the denoising step, and so costs none.
    Logs a warning if the steps are too long for their noise.
    """
    if spec.eta > 0:
        _warn_of_growing_noise(sde, spec)
    return _solve(score, sde, spec, u, draws, watcher)


def _solve(
    score: ScoreFunction, sde: Diffusion, spec: ExponentialSpec, u: Tensor, draws: Draws, watcher: Watcher = UNWATCHED
) -> tuple[Tensor, int]:
    times = grid_of(spec, sde.schedule)
    coefficients = steps(sde, tuple(times), spec.order, spec.corrector, spec.eta)
    noise = draws(len(coefficients), sde.n)
    history: list[Tensor] = []
    correction: list[Matrix] = []

    def evaluate(t: float) -> None:
        """Take in alpha at u and t, and correct u with it."""
        history.insert(0, rest(score, sde, u, t))
        _add_all(u, correction, history)
        del history[spec.order + 1 :]

    for number, (step, t) in enumerate(zip(coefficients, times[:-1], strict=True)):
        evaluate(t)
        watcher.visit(t, u, number / len(coefficients))
        u = linear(step.transition, u)
        _add_all(u, step.predictor, history)
        if step.noise is not None:
            u.add_(linear(step.noise, next(noise)))
        correction = step.correction
    if spec.denoise:
        evaluate(spec.eps)
    watcher.visit(spec.eps, u, 1.0)
    if spec.denoise:
        u = sde.euler_step(u, score_from_rest(history[0], sde, u, spec.eps), spec.eps, spec.eps)
    return u, spec.nfe


@functools.lru_cache(maxsize=64)
def _warn_of_growing_noise(sde: Diffusion, spec: ExponentialSpec) -> None:
    """Warn if samples are much too wide: once, because the call is cached."""
    factor = widening(sde, spec)
    if not factor <= _MOST_WIDENING:
        settings = f"sampling.eta={spec.eta:g}, order={spec.order}, corrector={str(spec.corrector).lower()}"
        text = f"is too small for {settings}: narrow data come out {factor:.3g} times too wide"
        fix = "Raise it, lower eta, or set order=2 and corrector=false"
        _log.warning("sampling.nfe=%d %s. %s.", spec.nfe, text, fix)


def widening(sde: Diffusion, spec: ExponentialSpec) -> float:
    """How many times wider than the data their samples are, exactly, for N(0, 0.04^2) and its score.

    That score is linear, so the sampler is a linear map of its noise: it runs on unit vectors, once per number that it
    draws, and what they become adds up to the variance of x.
    """
    n = sde.n
    units = torch.eye(n * (1 + spec.nfe), dtype=torch.float64)

    def draws(count: int, halves: int) -> Iterator[Tensor]:
        yield from units[:, n:].split(halves, dim=1)

    u, _ = _solve(gaussian(_NARROW_STD, d=1).score(sde), sde, spec, sde.prior(units[:, :n]), draws)
    return float(u[:, 0].norm()) / _NARROW_STD


@functools.lru_cache(maxsize=64)
def steps(sde: Diffusion, times: tuple[float, ...], order: int, corrector: bool, eta: float) -> tuple[Step, ...]:
    """The coefficients for a grid, computed once for each pair of diffusion and grid.

    Step i interpolates with degree min(order, i), which is what the evaluations so far allow. The corrector
    interpolates with degree max(order, 1), the end of the step being one of its points.

    Args:
        order: degree of the interpolation, 0 to 3. Without noise the error falls with the power order + 1 of the number
            of steps, with the power 2 for order 0 with the corrector. With noise the error of the samples' law falls
            with the power 2 at most (docs/math.md section 7.2).
        eta: 0 follows the probability flow, 1 the reverse SDE; noise is what eta > 0 adds.
    """
    first = sde.n - sde.m
    a = torch.tensor(sde.A, dtype=torch.float64)

    def matrix(t: Tensor) -> Tensor:
        out = (sde.schedule.beta(t) * torch.ones_like(t))[:, None, None] * a
        out[:, first:, first:] += _strengths(sde, eta, t) * stacked(sde.known_precision(t), t)
        return out

    parts = enumerate(segments(list(times), matrix))
    # The times t_(i+1), t_i, ..., t_0 of step i.
    return tuple(_step(sde, segment, times[: i + 2][::-1], order, corrector, eta) for i, segment in parts)


def _strengths(sde: Diffusion, eta: float, t: Tensor) -> Tensor:
    """Factors (K, m, 1) of -s in du/dt of the scored halves."""
    return torch.stack([0.5 * (1.0 + eta * eta) * rate for rate in sde.diffusion2(t)], dim=1)[:, :, None]


def _step(sde: Diffusion, segment: Segment, times: Sequence[float], order: int, corrector: bool, eta: float) -> Step:
    """The step over a segment; ``times`` are its end, its start and those before, back to 1."""
    fields = torch.zeros(len(segment.times), sde.n, sde.m, dtype=torch.float64)
    strengths = _strengths(sde, eta, segment.times)
    fields[:, sde.n - sde.m :] = strengths * stacked(sde.target(segment.times), segment.times)

    def weights(points: Sequence[float]) -> list[Matrix]:
        basis = lagrange(sde, points, segment.times)
        return [_columns(segment, fields * row[:, None, None]) for row in basis]

    predictor = weights(times[1 : order + 2])
    correction: list[Matrix] = []
    if corrector:
        nothing = [[0.0] * sde.m for _ in range(sde.n)]
        correction = _differences(weights(times[: max(order, 1) + 1]), [nothing, *predictor], nothing)
    return Step(segment.whole.tolist(), predictor, correction, _noise(sde, segment, eta) if eta else None)


def _columns(segment: Segment, fields: Tensor) -> Matrix:
    """The integral (n, m) of each of the m columns of ``fields`` (K, n, m)."""
    columns = [segment.integral(field.contiguous()) for field in fields.unbind(2)]
    rows: Matrix = torch.stack(columns, dim=1).tolist()
    return rows


def _noise(sde: Diffusion, segment: Segment, eta: float) -> Matrix:
    """Lower factor (n, n) of the covariance of the noise that the scored halves receive during a step."""
    covariance = torch.zeros(sde.n, sde.n, dtype=torch.float64)
    for half, rate in enumerate(sde.diffusion2(segment.times), start=sde.n - sde.m):
        white = torch.zeros(len(segment.times), sde.n, dtype=torch.float64)
        white[:, half] = eta * rate.sqrt()
        covariance += segment.gram(white)
    factor: Matrix = torch.linalg.cholesky(covariance).tolist()
    return factor


def lagrange(sde: Diffusion, points: Sequence[float], t: Tensor) -> Tensor:
    """Lagrange polynomials (len(points), K) of ``points`` at times t (K,), in the variable sqrt(B(t)).

    Of the variables that were tried, this one follows alpha best near the data, and steps do not depend on how fast
    beta varies.
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


def _add_all(u: Tensor, weights: list[Matrix], alphas: list[Tensor]) -> None:
    """u += the sum of weights_j alpha_j, in place."""
    for weight, alpha in zip(weights, alphas, strict=False):
        add(u, weight, alpha)


def _differences(a: list[Matrix], b: list[Matrix], nothing: Matrix) -> list[Matrix]:
    """a - b, matrix by matrix, the shorter list continued with ``nothing``."""
    length = max(len(a), len(b))
    a, b = (matrices + [nothing] * (length - len(matrices)) for matrices in (a, b))
    return [
        [[x - y for x, y in zip(p, q, strict=True)] for p, q in zip(rows, others, strict=True)]
        for rows, others in zip(a, b, strict=True)
    ]
