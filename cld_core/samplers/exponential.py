"""The exponential multistep sampler (docs/math.md section 7.2).

The reverse process is split into a known linear part, which is solved exactly, and a smooth rest: a
multiple of alpha (`samplers.rest`), which is interpolated between evaluations. It works with any
score, with one evaluation per step.
"""

import functools
import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from cld_core.analytic import gaussian
from cld_core.config.sampling import ExponentialSpec
from cld_core.samplers import Draws, FixedSteps, drive, grid_of, rest, score_from_rest
from cld_core.samplers.multistep import (
    StepCoefficients,
    alpha_fields,
    interpolating,
    known_part,
    predictor_corrector,
    segments,
)
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion

_log = logging.getLogger(__name__)
# Standard deviation of data that are narrow enough to show noise that grows from step to step.
_NARROW_STD = 0.04
# The factor by which samples of them may be wider.
_MOST_WIDENING = 2.0


def method(
    score: ScoreFunction, sde: Diffusion, spec: ExponentialSpec, u: Tensor, draws: Draws
) -> FixedSteps:
    """See `cld_core.samplers`.

    One evaluation per step. Logs a warning if the steps are too long for their noise.
    """
    if spec.eta > 0:
        _warn_of_growing_noise(sde, replace(spec, repeats=1))
    return _method(score, sde, spec, u, draws)


def _method(
    score: ScoreFunction, sde: Diffusion, spec: ExponentialSpec, u: Tensor, draws: Draws
) -> FixedSteps:
    """The steps, in groups of `spec.jump`.

    Each group is made `spec.repeats` times; in between, the forward process leads from its end to
    its start. A watcher sees the last repetition.

    If the number of steps is not a multiple of `spec.jump`, the first group is shorter, because
    steps near the data matter most.
    """
    grid = grid_of(spec, sde.schedule)
    count = len(grid) - 1
    jump = spec.jump if spec.repeats > 1 else count
    firsts = [0, *range(count % jump or jump, count, jump)]
    back = draws(len(firsts) * (spec.repeats - 1), sde.n)
    noise = draws(count * spec.repeats, sde.n)

    times: list[float] = []
    coefficients: list[StepCoefficients] = []
    shares: list[float | None] = []
    starts: set[int] = set()
    ends: dict[int, float] = {}  # of groups that are made again: the last step, and its end
    for first, last in pairwise([*firsts, count]):
        group = steps(sde, tuple(grid[first : last + 1]), spec.order, spec.corrector, spec.eta)
        for left in reversed(range(spec.repeats)):
            starts.add(len(times))
            times += grid[first:last]
            coefficients += group
            if left:
                ends[len(times) - 1] = grid[last]
                shares += [None] * (last - first)
            else:
                shares += [i / count for i in range(first, last)]
    times.append(spec.eps)

    def alpha(u: Tensor, t: float) -> Tensor:
        return rest(score, sde, u, t)

    def score_of(alpha: Tensor, u: Tensor) -> Tensor:
        return score_from_rest(alpha, sde, u, spec.eps)

    forth = predictor_corrector(
        sde, spec, times, coefficients, alpha, score_of, noise, starts=starts, shares=shares
    )

    if not ends:
        return forth

    def step(u: Tensor, i: int) -> Tensor:
        u = forth.step(u, i)
        if i in ends:
            u = sde.forward(u, next(back), ends[i], times[i + 1])
        return u

    return replace(forth, step=step)


@functools.lru_cache(maxsize=64)
def _warn_of_growing_noise(sde: Diffusion, spec: ExponentialSpec) -> None:
    """Warn if samples are much too wide. The call is cached, so it warns once."""
    factor = widening(sde, spec)
    if not factor <= _MOST_WIDENING:
        # docs/samplers.md, "Noise": no other order is narrower.
        is_best = spec.order == 2 and not spec.corrector
        _log.warning(
            "sampling.nfe=%d is too small for sampling.eta=%g, order=%d, corrector=%s: narrow data "
            "come out %.3g times too wide. Raise it, %s.",
            spec.nfe,
            spec.eta,
            spec.order,
            str(spec.corrector).lower(),
            factor,
            "or lower eta" if is_best else "lower eta, or set order=2 and corrector=false",
        )


def widening(sde: Diffusion, spec: ExponentialSpec) -> float:
    """The exact ratio of the standard deviations of samples and data, for N(0, 0.04^2) and its
    score.

    That score is linear, so the sampler is a linear map of its noise. It runs on one unit vector
    for each number that it draws, and the squares of the results add up to the variance of x.
    """
    n = sde.n
    units = torch.eye(n * (1 + spec.nfe), dtype=torch.float64)

    def draws(count: int, halves: int) -> Iterator[Tensor]:
        yield from units[:, n:].split(halves, dim=1)

    score = gaussian(_NARROW_STD, d=1).score(sde)
    u, _ = drive(_method, score, sde, spec, sde.prior(units[:, :n]), draws)
    return float(u[:, 0].norm()) / _NARROW_STD


@functools.lru_cache(maxsize=64)
def steps(
    sde: Diffusion, times: tuple[float, ...], order: int, corrector: bool, eta: float
) -> tuple[StepCoefficients, ...]:
    """The coefficients for a grid, computed once for each pair of diffusion and grid.

    Args:
        order: degree of the interpolation, 0 to 3. Without noise, the order of convergence is order
            + 1, or 2 for order 0 with the corrector. With noise, the weak order is 2 at most
            (docs/math.md section 7.2).
        eta: 0 follows the probability flow, 1 the reverse SDE; eta > 0 adds noise.
    """
    parts = segments(times, functools.partial(known_part, sde, eta))
    fields = [alpha_fields(sde, eta, part.times) for part in parts]
    return interpolating(sde, times, parts, fields, order, corrector, eta)
