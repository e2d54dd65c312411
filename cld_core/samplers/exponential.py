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
from cld_core.samplers import UNWATCHED, Draws, Watcher, grid_of, rest, score_from_rest
from cld_core.samplers.multistep import (
    Step,
    alpha_fields,
    follow,
    interpolating,
    known_part,
    segments,
)
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion

_log = logging.getLogger(__name__)
# Data narrow enough to show noise that grows from step to step, and how much wider samples of them
# may be.
_NARROW_STD, _MOST_WIDENING = 0.04, 2.0


def sample(
    score: ScoreFunction,
    sde: Diffusion,
    spec: ExponentialSpec,
    u: Tensor,
    draws: Draws,
    watcher: Watcher = UNWATCHED,
) -> tuple[Tensor, int]:
    """See `cld_core.samplers`.

    One evaluation per step. The corrector uses that of the next step, or of the denoising step, and
    so costs none. Logs a warning if the steps are too long for their noise.
    """
    if spec.eta > 0:
        _warn_of_growing_noise(sde, replace(spec, repeats=1))
    return _solve(score, sde, spec, u, draws, watcher)


def _solve(
    score: ScoreFunction,
    sde: Diffusion,
    spec: ExponentialSpec,
    u: Tensor,
    draws: Draws,
    watcher: Watcher = UNWATCHED,
) -> tuple[Tensor, int]:
    """Groups of `spec.jump` steps, each made several times: the forward process leads from its end
    to its start.

    If the number of steps is not a multiple of that, the first group is shorter: steps near the
    data matter most.
    """
    times = grid_of(spec, sde.schedule)
    count = len(times) - 1
    jump = spec.jump if spec.repeats > 1 else count
    firsts = [0, *range(count % jump or jump, count, jump)]
    forth, noise = (
        draws(len(firsts) * (spec.repeats - 1), sde.n),
        draws(count * spec.repeats, sde.n),
    )
    newest = u

    def alpha(u: Tensor, t: float) -> Tensor:
        return rest(score, sde, u, t)

    for first, last in pairwise([*firsts, count]):
        part = times[first : last + 1]
        coefficients = steps(sde, tuple(part), spec.order, spec.corrector, spec.eta)

        def visit(t: float, u: Tensor, done: float, first: int = first, last: int = last) -> None:
            if done < 1.0 or last == count:
                watcher.visit(t, u, (first + (last - first) * done) / count)

        for left in reversed(range(spec.repeats)):
            seen = UNWATCHED.visit if left else visit
            ends = not left and last == count and spec.denoise
            u, newest = follow(
                u, part, coefficients, alpha, noise, seen, order=spec.order, evaluate_last=ends
            )
            if left:
                u = sde.forward(u, next(forth), part[-1], part[0])
    if spec.denoise:
        u = sde.euler_step(u, score_from_rest(newest, sde, u, spec.eps), spec.eps, spec.eps)
    return u, count * spec.repeats + int(spec.denoise)


@functools.lru_cache(maxsize=64)
def _warn_of_growing_noise(sde: Diffusion, spec: ExponentialSpec) -> None:
    """Warn if samples are much too wide: once, because the call is cached."""
    factor = widening(sde, spec)
    if not factor <= _MOST_WIDENING:
        settings = (
            f"sampling.eta={spec.eta:g}, order={spec.order}, "
            f"corrector={str(spec.corrector).lower()}"
        )
        text = f"is too small for {settings}: narrow data come out {factor:.3g} times too wide"
        # docs/samplers.md, "Noise": no other order is narrower.
        is_best = spec.order == 2 and not spec.corrector
        fix = (
            "Raise it, or lower eta"
            if is_best
            else "Raise it, lower eta, or set order=2 and corrector=false"
        )
        _log.warning("sampling.nfe=%d %s. %s.", spec.nfe, text, fix)


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

    u, _ = _solve(gaussian(_NARROW_STD, d=1).score(sde), sde, spec, sde.prior(units[:, :n]), draws)
    return float(u[:, 0].norm()) / _NARROW_STD


@functools.lru_cache(maxsize=64)
def steps(
    sde: Diffusion, times: tuple[float, ...], order: int, corrector: bool, eta: float
) -> tuple[Step, ...]:
    """The coefficients for a grid, computed once for each pair of diffusion and grid.

    Args:
        order: degree of the interpolation, 0 to 3. Without noise, the order of convergence is order
            + 1, or 2 for order 0 with the corrector. With noise, the weak order is 2 at most
            (docs/math.md section 7.2).
        eta: 0 follows the probability flow, 1 the reverse SDE; eta > 0 adds noise.
    """
    parts = segments(list(times), functools.partial(known_part, sde, eta))
    fields = [alpha_fields(sde, eta, part.times) for part in parts]
    return interpolating(sde, times, parts, fields, order, corrector, eta)
