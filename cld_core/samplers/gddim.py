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
from cld_core.samplers.grids import grid_of
from cld_core.samplers.halves import Matrix, add
from cld_core.samplers.multistep import Step, alpha_fields, drift, follow, interpolating, noise_factor, strengths
from cld_core.samplers.noise import Draws
from cld_core.samplers.path import UNWATCHED, Watcher
from cld_core.samplers.quadrature import Segment, segments
from cld_core.samplers.whole_score import kernel, whole_score
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.rows import inverse, negated


@dataclass(frozen=True)
class Noise:
    """Conversion between score and noise at one time: noise = of_u u + of_score s, and s = back noise."""

    of_u: Matrix  # (k, n)
    of_score: Matrix  # (k, m)
    back: Matrix  # (m, k)


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
        noise, scores = found.noises[t], score(u, t)
        out = u.new_zeros(len(u), u.shape[1] // sde.n * len(noise.of_u), *u.shape[2:])
        add(out, noise.of_u, u)
        add(out, noise.of_score, scores)
        return out

    white = draws(len(found.steps), sde.n)
    u, newest = follow(u, times, found.steps, noise_at, white, watcher, order=spec.order, evaluate_last=spec.denoise)
    if spec.denoise:
        scores = torch.zeros_like(sde.scored(u))
        add(scores, found.noises[spec.eps].back, newest)
        u = sde.euler_step(u, scores, spec.eps, spec.eps)
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
        made.append(Step(segment.whole.tolist(), *weights, None))
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
    roots = [torch.linalg.cholesky(kernel(sde, torch.tensor([start], dtype=torch.float64))[0])]
    for segment in moving:
        roots.append(segment.whole @ roots[-1])
    return roots


def _noise(sde: Diffusion, t: float, root: Tensor) -> Noise:
    whole = whole_score(sde, t)
    to_noise = -torch.linalg.solve(root, whole.covariance)
    back = -torch.linalg.solve(whole.covariance, root)[sde.n - sde.m :]
    return Noise((to_noise @ whole.of_u).tolist(), (to_noise @ whole.of_score).tolist(), back.tolist())


def _stochastic(sde: Diffusion, plain: Segment, closed: Segment, root: Tensor, eta: float) -> Step:
    """The mean of x moves with the drift, and deviations from it as they would around a single data point."""
    predictor: Matrix = ((closed.whole - plain.whole) @ root).tolist()
    return Step(plain.whole.tolist(), [predictor], [], noise_factor(sde, closed, eta))


def _with_cholesky(
    sde: Diffusion, times: tuple[float, ...], plain: list[Segment], order: int, corrector: bool
) -> Coefficients:
    steps = []
    for i, segment in enumerate(plain):
        fields = alpha_fields(sde, 0.0, segment.times)
        weights = interpolating(sde, segment, fields, times[: i + 2][::-1], order, corrector)
        steps.append(Step(segment.whole.tolist(), *weights, None))
    nothing = [[0.0] * sde.n for _ in range(sde.m)]
    noises = {}
    for t in times:
        target = sde.target(t)
        noises[t] = Noise(nothing, negated(inverse(target)), negated(target))
    return Coefficients(tuple(steps), noises)
