"""The symmetric splitting CLD sampler SSCS (the paper, section 3.3), of first and of second order (docs/math.md 7)."""

import functools
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from cld_core.config.sampling import SscsSpec
from cld_core.errors import RecipeError
from cld_core.samplers import Draws
from cld_core.samplers.grids import grid_of
from cld_core.samplers.path import UNWATCHED, Watcher
from cld_core.samplers.quadrature import segments
from cld_core.samplers.split import denoised, rest
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.matrices import apply, combined


def sample(
    score: ScoreFunction, sde: Diffusion, spec: SscsSpec, u: Tensor, draws: Draws, watcher: Watcher = UNWATCHED
) -> tuple[Tensor, int]:
    """See `cld_core.samplers`. One evaluation per step; the watcher sees the middle of each step.

    Raises:
        RecipeError: the diffusion has no exact part to split off.
    """
    if sde.n == 1:
        raise RecipeError(
            f"sampling.method=sscs solves a part of the dynamics exactly, and {type(sde).__name__} has no such part. "
            "Choose sampling.method=em, ode or exponential."
        )
    times = grid_of(spec, sde.schedule)
    method = second_order if spec.sscs_order == 2 else first_order
    watcher.visit(times[0], u, 0.0)
    u = method(score, sde, u, times, draws(len(times), sde.n), watcher)
    watcher.visit(spec.eps, u, 1.0)
    if spec.denoise:
        u = denoised(score, sde, u, spec.eps)
    return u, spec.nfe


def exact_part(sde: Diffusion, u: Tensor, t: float, t_next: float, noise: Tensor) -> Tensor:
    """Exact solution of the reverse process whose score is the prior's, from t down to t_next.

    ``noise`` is shaped as u, (B, nC, ...).
    """
    matrix = _reverse(sde, sde.schedule.between(t_next, t))
    return combined(matrix, (*sde.halves(u), *sde.halves(noise)))


@functools.lru_cache(maxsize=4096)
def _reverse(sde: Diffusion, big_d: float) -> Tensor:
    """`Diffusion.reverse`: the matrix (n, 2n) of u and of the noise."""
    return torch.cat(sde.reverse(big_d), dim=1)


def _middles(times: list[float]) -> list[float]:
    """Times at which the score part acts, one per step. Between two of them the exact part acts in one piece.

    The second half of a step and the first half of the next are both exact, hence together the exact part over both.
    """
    return [0.5 * (t + t_next) for t, t_next in pairwise(times)]


def first_order(
    score: ScoreFunction,
    sde: Diffusion,
    u: Tensor,
    times: list[float],
    noise: Iterator[Tensor],
    watcher: Watcher = UNWATCHED,
) -> Tensor:
    """u (B, nC, ...) at times[-1], from u at times[0].

    ``noise`` yields (B, nC, ...), once more often than there are steps.
    """
    now = times[0]
    steps = len(times) - 1
    for step, ((t, t_next), middle) in enumerate(zip(pairwise(times), _middles(times), strict=True)):
        u = exact_part(sde, u, now, middle, next(noise))
        scores = sde.scored_halves(score(u, t))
        scored = zip(sde.halves(u)[-sde.m :], sde.precision[-sde.m :], sde.diffusion2(t).tolist(), scores, strict=True)
        for half, precision, rate, s in scored:
            half.add_(torch.add(s, half, alpha=precision), alpha=rate * (t - t_next))
        watcher.visit(middle, u, (step + 0.5) / steps)
        now = middle
    return exact_part(sde, u, now, times[-1], next(noise))


@functools.lru_cache(maxsize=64)
def kicks(sde: Diffusion, times: tuple[float, ...]) -> tuple[tuple[Tensor, Tensor], ...]:
    """For each step the kick over its first half and that over the whole step.

    A kick is the solution of the score part with the other halves and alpha kept: the matrix (m, 2m) of the scored
    halves and of alpha. The score part is du_S/dt = -G (s + P u_S) with G = beta D and the prior's precisions P; in the
    alpha of `split.rest`, G (K - P) u_S + G E alpha.
    """
    prior = torch.diag(torch.tensor(sde.precision[-sde.m :], dtype=torch.float64))

    def rates(t: Tensor) -> Tensor:
        return sde.diffusion2(t)[:, :, None]

    steps = zip(_middles(list(times)), times[1:], strict=True)
    with_middles = [times[0], *(t for step in steps for t in step)]
    found = segments(with_middles, lambda t: rates(t) * (sde.known_precision(t) - prior))
    weights = [part.integral(rates(part.times) * sde.target(part.times)) for part in found]
    out = []
    for one, two, weight, next_weight in zip(found[::2], found[1::2], weights[::2], weights[1::2], strict=True):
        whole = two.whole @ torch.cat([one.whole, weight], dim=1)
        whole[:, sde.m :] += next_weight
        out.append((torch.cat([one.whole, weight], dim=1), whole))
    return tuple(out)


def second_order(
    score: ScoreFunction,
    sde: Diffusion,
    u: Tensor,
    times: list[float],
    noise: Iterator[Tensor],
    watcher: Watcher = UNWATCHED,
) -> Tensor:
    """As `first_order`, with an error that falls with the square of the number of steps.

    The score part is exact in u_S for its linear part, and takes alpha at the middle of the step, in t and in u_S.
    The u_S there is predicted with the last step's alpha, which is accurate enough for second order.
    """
    alpha = torch.zeros_like(sde.scored(u))  # it vanishes with the data's influence, at t = 1
    now = times[0]
    middles = _middles(times)
    for step, (middle, (half, whole)) in enumerate(zip(middles, kicks(sde, tuple(times)), strict=True)):
        u = exact_part(sde, u, now, middle, next(noise))
        scored = sde.scored(u)
        start = scored.clone()
        scored.copy_(apply(half, torch.cat([start, alpha], dim=1)))
        alpha = rest(score, sde, u, middle)
        scored.copy_(apply(whole, torch.cat([start, alpha], dim=1)))
        watcher.visit(middle, u, (step + 0.5) / len(middles))
        now = middle
    return exact_part(sde, u, now, times[-1], next(noise))
