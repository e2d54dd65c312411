"""Generalised DDIM (arXiv 2206.05564; docs/math.md section 7.3): steps along which the predicted
noise is constant.

With a root R of the kernel's covariance that evolves with the flow, the noise epsilon = R^-1 (u -
mean) of a single data point is constant along the flow, so it is interpolated instead of the score.
This needs the noise of all halves, which `whole_score` derives if not all are scored. With the
lower Cholesky factor instead of R, the noise of the scored halves is enough, but it is not
constant, and steps have to be short.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.config.sampling import GddimSpec
from cld_core.samplers import Draws, FixedSteps, grid_of
from cld_core.samplers.multistep import (
    Segment,
    StepCoefficients,
    alpha_fields,
    drift,
    interpolating,
    noise_factor,
    predictor_corrector,
    pulling,
    segments,
)
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.estimate import estimate
from cld_core.sde.matrices import apply, combined


@dataclass(frozen=True)
class NoiseConversion:
    """Conversion between score and noise at one time: noise = forth (u, s), and s = back noise."""

    forth: Tensor  # (k, n + m)
    back: Tensor  # (m, k)


def method(
    score: ScoreFunction, sde: Diffusion, spec: GddimSpec, u: Tensor, draws: Draws
) -> FixedSteps:
    """See `cld_core.samplers`. One evaluation per step."""
    times = grid_of(spec, sde.schedule)
    steps, noises = coefficients(sde, tuple(times), spec.root, spec.order, spec.corrector, spec.eta)

    def noise_at(u: Tensor, t: float) -> Tensor:
        return combined(noises[t].forth, (*sde.halves(u), *sde.scored_halves(score(u, t))))

    def score_of(noise: Tensor, u: Tensor) -> Tensor:
        return apply(noises[spec.eps].back, noise)

    white = draws(len(steps), sde.n)
    return predictor_corrector(sde, spec, times, steps, noise_at, score_of, white)


@functools.lru_cache(maxsize=64)
def coefficients(
    sde: Diffusion, times: tuple[float, ...], root: str, order: int, corrector: bool, eta: float
) -> tuple[tuple[StepCoefficients, ...], dict[float, NoiseConversion]]:
    """Steps for a grid, and the `NoiseConversion` at each of its times. With eta > 0, they are of
    order 0 without corrector.

    Args:
        root: "flow" is R, "cholesky" the lower Cholesky factor, whose noise of the scored halves is
            enough.
    """
    plain = segments(times, functools.partial(drift, sde))
    if root == "cholesky":
        noises = {t: _scored_noise(sde, t) for t in times}
        fields = [alpha_fields(sde, 0.0, segment.times) for segment in plain]
    else:
        moving = segments(times, functools.partial(_closed, sde, 0.0))
        # The root's initial value does not matter: a constant rotation of the noise has no effect.
        roots = [torch.linalg.cholesky(kernel(sde, times[0]))]
        for segment in moving:
            roots.append(segment.whole @ roots[-1])
        noises = {t: _noise(sde, t, moved) for t, moved in zip(times, roots, strict=True)}
        if eta > 0.0:
            closed = segments(times, functools.partial(_closed, sde, eta))
            parts = zip(plain, closed, roots, strict=False)
            return tuple(_stochastic(sde, *part, eta) for part in parts), noises
        fields = []
        for segment, end in zip(moving, roots[1:], strict=True):
            inside = torch.linalg.solve(segment.back, end)  # R at the nodes
            scores = torch.linalg.solve(kernel(sde, segment.times), inside)
            fields.append(pulling(sde, 0.0, segment.times, scores[:, sde.unscored :]))
    return interpolating(sde, times, plain, fields, order, corrector), noises


def _closed(sde: Diffusion, eta: float, t: Tensor) -> Tensor:
    """Matrix (K, n, n) of the reverse process of a single data point, relative to the mean: its
    score is linear."""
    precision = torch.linalg.inv(kernel(sde, t))
    return drift(sde, t) + pulling(sde, eta, t, precision[:, sde.unscored :])


def _noise(sde: Diffusion, t: float, root: Tensor) -> NoiseConversion:
    """The conversion for the noise of all halves."""
    covariance = kernel(sde, t)
    forth = -torch.linalg.solve(root, covariance) @ whole_score(sde, t)
    return NoiseConversion(forth, -torch.linalg.solve(covariance, root)[sde.unscored :])


def _scored_noise(sde: Diffusion, t: float) -> NoiseConversion:
    """The conversion for the noise of the scored halves."""
    forth = torch.nn.functional.pad(-sde.inverse_target(t), (sde.n, 0))
    return NoiseConversion(forth, -sde.target(t))


def _stochastic(
    sde: Diffusion, plain: Segment, closed: Segment, root: Tensor, eta: float
) -> StepCoefficients:
    """A step with noise.

    The mean of x moves with the drift, and deviations from it move as around a single data point.
    """
    predictor = torch.cat([plain.whole, (closed.whole - plain.whole) @ root], dim=1)
    return StepCoefficients(predictor, noise=noise_factor(sde, closed, eta))


def kernel(sde: Diffusion, t: float | Tensor) -> Tensor:
    """Sigma_t, (..., n, n), numerical_eps included."""
    factor = sde.factor(t)
    return factor @ factor.mT


def whole_score(sde: Diffusion, t: float) -> Tensor:
    """The matrix (n, n + m) that makes the score of every half at time t from u and the scored
    halves' score.

    The kernel is Gaussian, so the score of all halves is -Sigma^-1 (u - Psi_0 E[x | u]) with the
    first column Psi_0 of Psi_t. Its only unknown is E[x | u], which follows from the score of the
    scored halves; if there are several, it is the least-squares solution for their noises. Their
    own scores are kept as they are, so nothing is derived if all halves are scored.
    """
    first = sde.unscored
    own = torch.eye(sde.n + sde.m, dtype=torch.float64)[sde.n :]
    precision = torch.linalg.inv(kernel(sde, t))
    x = estimate(sde, t)
    pull = precision @ sde.mean(t)[:, 0]  # the score of all halves is pull E[x | u] - precision u
    derived = torch.outer(pull, torch.cat([x.of_u, x.of_score]))
    derived[:, : sde.n] -= precision
    return torch.cat([derived[:first], own])
