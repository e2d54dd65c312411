"""Euler-Maruyama for the reverse SDE (docs/math.md section 7)."""

import math

from torch import Tensor

from cld_core.config.sampling import EmSpec
from cld_core.samplers import Draws, FixedSteps, grid_of
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion


def method(
    score: ScoreFunction, sde: Diffusion, spec: EmSpec, u: Tensor, draws: Draws
) -> FixedSteps:
    """See `cld_core.samplers`. One evaluation per step; only the scored halves are noisy."""
    times = grid_of(spec, sde.schedule)
    noise = draws(len(times) - 1, sde.m)

    def step(u: Tensor, i: int) -> Tensor:
        t = times[i]
        dt = t - times[i + 1]
        u = sde.euler_step(u, score(u, t), t, dt)
        parts = zip(
            sde.halves(u)[-sde.m :],
            sde.scored_halves(next(noise)),
            sde.diffusion2(t).tolist(),
            strict=True,
        )
        for half, e, rate in parts:
            half.add_(e, alpha=math.sqrt(rate * dt))
        return u

    return FixedSteps(times, step)
