"""Generalised DDIM (arXiv 2206.05564; docs/math.md section 7.3): steps along which the predicted noise is constant.

With a root R of the kernel's covariance that evolves with the flow, the noise epsilon = R^-1 (u - mean) of a single
data point is constant along the flow, so it is interpolated instead of the score. This needs the noise of all halves,
which `whole_score` derives if not all are scored. With the lower Cholesky factor instead of R, the noise of the scored
halves is enough, but it is not constant, and steps have to be short.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.config.sampling import GddimSpec
from cld_core.samplers import Draws
from cld_core.samplers.grids import grid_of
from cld_core.samplers.multistep import Step, alpha_fields, drift, follow, interpolating, noise_factor, strengths
from cld_core.samplers.path import UNWATCHED, Watcher
from cld_core.samplers.quadrature import Segment, segments
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.estimate import estimate
from cld_core.sde.matrices import apply, combined


@dataclass(frozen=True)
class Noise:
    """Conversion between score and noise at one time: noise = of_u u + of_score s, and s = back noise."""

    of_u: Tensor  # (k, n)
    of_score: Tensor  # (k, m)
    back: Tensor  # (m, k)


@dataclass(frozen=True)
class Coefficients:
    steps: tuple[Step, ...]
    noises: dict[float, Noise]  # by time of evaluation


def sample(
    score: ScoreFunction, sde: Diffusion, spec: GddimSpec, u: Tensor, draws: Draws, watcher: Watcher = UNWATCHED
) -> tuple[Tensor, int]:
    """See `cld_core.samplers`. One evaluation per step; the corrector repeats none, as in `exponential`."""
    times = grid_of(spec, sde.schedule)
    found = coefficients(sde, tuple(times), spec.root, spec.order, spec.corrector, spec.eta)

    def noise_at(u: Tensor, t: float) -> Tensor:
        noise = found.noises[t]
        matrix = torch.cat([noise.of_u, noise.of_score], dim=1)
        return combined(matrix, (*sde.halves(u), *sde.scored_halves(score(u, t))))

    white = draws(len(found.steps), sde.n)
    u, newest = follow(u, times, found.steps, noise_at, white, watcher, order=spec.order, evaluate_last=spec.denoise)
    if spec.denoise:
        u = sde.euler_step(u, apply(found.noises[spec.eps].back, newest), spec.eps, spec.eps)
    return u, spec.nfe


@functools.lru_cache(maxsize=64)
def coefficients(
    sde: Diffusion, times: tuple[float, ...], root: str, order: int, corrector: bool, eta: float
) -> Coefficients:
    """Steps for a grid. The stochastic form, eta > 0, is of order 0 without corrector.

    Args:
        root: "flow" is R, "cholesky" the lower Cholesky factor, whose noise of the scored halves is enough.
    """
    plain = segments(list(times), functools.partial(drift, sde))
    if root == "cholesky":
        return _with_cholesky(sde, times, plain, order, corrector)
    moving = segments(list(times), functools.partial(_closed, sde, 0.0))
    roots = _roots(sde, times[0], moving)
    noises = {t: _noise(sde, t, moved) for t, moved in zip(times, roots, strict=True)}
    if eta > 0.0:
        closed = segments(list(times), functools.partial(_closed, sde, eta))
        parts = zip(plain, closed, roots, strict=False)
        return Coefficients(tuple(_stochastic(sde, *part, eta) for part in parts), noises)
    made = []
    for i, (segment, carried) in enumerate(zip(plain, moving, strict=True)):
        inside = torch.linalg.solve(carried.back, roots[i + 1])  # R at the nodes
        fields = _pulling(sde, segment.times, torch.linalg.solve(kernel(sde, segment.times), inside))
        weights = interpolating(sde, segment, fields, times[: i + 2][::-1], order, corrector)
        made.append(Step(segment.whole, *weights, None))
    return Coefficients(tuple(made), noises)


def _closed(sde: Diffusion, eta: float, t: Tensor) -> Tensor:
    """Matrix (K, n, n) of the reverse process of a single data point, relative to the mean: its score is linear."""
    return drift(sde, t) + _pulling(sde, t, torch.linalg.inv(kernel(sde, t)), eta)


def _pulling(sde: Diffusion, t: Tensor, matrix: Tensor, eta: float = 0.0) -> Tensor:
    """The term in du/dt of ``matrix`` (K, n, k) as -score: its scored rows times their strengths, (K, n, k)."""
    out = torch.zeros_like(matrix)
    out[:, sde.n - sde.m :] = strengths(sde, eta, t) * matrix[:, sde.n - sde.m :]
    return out


def _roots(sde: Diffusion, start: float, moving: list[Segment]) -> list[Tensor]:
    """R, (n, n), at each time. Its initial value does not matter: a constant rotation of the noise has no effect."""
    roots = [torch.linalg.cholesky(kernel(sde, start))]
    for segment in moving:
        roots.append(segment.whole @ roots[-1])
    return roots


def _noise(sde: Diffusion, t: float, root: Tensor) -> Noise:
    of_u, of_score = whole_score(sde, t)
    covariance = kernel(sde, t)
    to_noise = -torch.linalg.solve(root, covariance)
    back = -torch.linalg.solve(covariance, root)[sde.n - sde.m :]
    return Noise(to_noise @ of_u, to_noise @ of_score, back)


def _stochastic(sde: Diffusion, plain: Segment, closed: Segment, root: Tensor, eta: float) -> Step:
    """The mean of x moves with the drift, and deviations from it as they would around a single data point."""
    predictor = ((closed.whole - plain.whole) @ root)[None]
    return Step(plain.whole, predictor, predictor[:0], noise_factor(sde, closed, eta))


def _with_cholesky(
    sde: Diffusion, times: tuple[float, ...], plain: list[Segment], order: int, corrector: bool
) -> Coefficients:
    steps = []
    for i, segment in enumerate(plain):
        fields = alpha_fields(sde, 0.0, segment.times)
        weights = interpolating(sde, segment, fields, times[: i + 2][::-1], order, corrector)
        steps.append(Step(segment.whole, *weights, None))
    first, noises = sde.n - sde.m, {}
    for t in times:
        # E^-1 is the transpose of the scored block of L.
        inverse = sde.factor(t)[first:, first:].T
        noises[t] = Noise(torch.zeros(sde.m, sde.n, dtype=torch.float64), -inverse, -sde.target(t))
    return Coefficients(tuple(steps), noises)


def kernel(sde: Diffusion, t: float | Tensor) -> Tensor:
    """Sigma_t, (..., n, n), numerical_eps included."""
    factor = sde.factor(t)
    return factor @ factor.mT


def whole_score(sde: Diffusion, t: float) -> tuple[Tensor, Tensor]:
    """The matrices (n, n) and (n, m) that make the score of every half at time t from u and the scored halves' score.

    The kernel is Gaussian, so the score of all halves is -Sigma^-1 (u - Psi_0 E[x | u]) with the first column Psi_0 of
    Psi_t. Its only unknown is E[x | u], which follows from the score of the scored halves; if there are several, it is
    the least-squares solution for their noises. Their own scores are kept as they are, so nothing is derived if all
    halves are scored.
    """
    first = sde.n - sde.m
    of_u, of_score = torch.zeros(sde.n, sde.n, dtype=torch.float64), torch.zeros(sde.n, sde.m, dtype=torch.float64)
    of_score[first:] = torch.eye(sde.m, dtype=torch.float64)
    if first:
        precision, x = torch.linalg.inv(kernel(sde, t)), estimate(sde, t)
        pull = precision @ sde.mean(t)[:, 0]  # the score of all halves is pull E[x | u] - precision u
        of_u[:first] = torch.outer(pull[:first], x.of_u) - precision[:first]
        of_score[:first] = torch.outer(pull[:first], x.of_score)
    return of_u, of_score
