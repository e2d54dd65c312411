"""The symmetric splitting CLD sampler SSCS (the paper, section 3.3), of first and of second order
(docs/math.md 7)."""

import functools
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from cld_core.config.sampling import SscsSpec
from cld_core.samplers import Draws, FixedSteps, grid_of, rest
from cld_core.samplers.multistep import Segment, segments, with_middles
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.matrices import apply, combined


def method(
    score: ScoreFunction, sde: Diffusion, spec: SscsSpec, u: Tensor, draws: Draws
) -> FixedSteps:
    """See `cld_core.samplers`. One evaluation per step.

    The second half of a step and the first half of the next are both exact, hence together the
    exact part over both. So the states are those in the middle of each step, and the two ends.
    """
    grid = grid_of(spec, sde.schedule)
    middles = [0.5 * (t + t_next) for t, t_next in pairwise(grid)]
    times = [grid[0], *middles, grid[-1]]
    kicks = _second_order(sde, tuple(grid)) if spec.sscs_order == 2 else _first_order(sde, grid)
    noise = draws(len(grid), sde.n)
    alpha = torch.zeros_like(sde.scored(u))  # it vanishes with the data's influence, at t = 1

    def step(u: Tensor, i: int) -> Tensor:
        u = exact_part(sde, u, times[i], times[i + 1], next(noise))
        if i < len(middles):
            kick(u, i)
        return u

    def kick(u: Tensor, i: int) -> None:
        """The score part of step i, in place."""
        nonlocal alpha
        half, whole = kicks[i]
        scored = sde.scored(u)
        start = scored.clone()
        if half is None:
            alpha = score(u, grid[i])
        else:
            scored.copy_(apply(half, torch.cat([start, alpha], dim=1)))
            alpha = rest(score, sde, u, middles[i])
        scored.copy_(apply(whole, torch.cat([start, alpha], dim=1)))

    shares = [0.0, *((i + 0.5) / len(middles) for i in range(len(middles)))]
    return FixedSteps(times, step, shares=shares)


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


# For each step the kick over its first half, if there is one, and that over the whole step. A kick
# is the solution of the score part with the other halves and alpha kept: the matrix (m, 2m) of the
# scored halves and of alpha. The score part is du_S/dt = -G (s + P u_S) with G = beta D and the
# prior's precisions P.
Kicks = Sequence[tuple[Tensor | None, Tensor]]


def _first_order(sde: Diffusion, times: Sequence[float]) -> Kicks:
    """Euler steps, with the score itself in place of alpha."""
    eye = torch.eye(sde.m, dtype=torch.float64)
    kicks = []
    for t, t_next in pairwise(times):
        rate = (t - t_next) * torch.diag(sde.diffusion2(t))
        kicks.append((None, torch.cat([eye + rate @ sde.scored_precision, rate], dim=1)))
    return kicks


@functools.lru_cache(maxsize=64)
def _second_order(sde: Diffusion, times: tuple[float, ...]) -> Kicks:
    """Kicks whose error falls with the square of the number of steps.

    The score part is G (K - P) u_S + G E alpha, with alpha of `samplers.rest`. Its linear part is
    solved exactly. alpha is taken at the middle of the step, in t and in u_S; the u_S there is
    predicted with the last step's alpha, which is accurate enough for second order.
    """

    def rates(t: Tensor) -> Tensor:
        return sde.diffusion2(t)[:, :, None]

    def weight(part: Segment) -> Tensor:
        return part.integral(rates(part.times) * sde.target(part.times))

    half_steps = segments(
        with_middles(times), lambda t: rates(t) * (sde.known_precision(t) - sde.scored_precision)
    )
    kicks = []
    for first, second in zip(half_steps[::2], half_steps[1::2], strict=True):
        half = torch.cat([first.whole, weight(first)], dim=1)
        whole = second.whole @ half
        whole[:, sde.m :] += weight(second)
        kicks.append((half, whole))
    return kicks
