"""Euler-Maruyama for the reverse SDE (docs/math.md section 7)."""

import torch
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
    grid = torch.tensor(times, dtype=torch.float64)
    # (steps, m), of the noise that each scored half receives.
    variances = sde.diffusion2(grid[:-1]) * -grid.diff()[:, None]
    stds = variances.sqrt().tolist()

    def step(u: Tensor, i: int) -> Tensor:
        t = times[i]
        u = sde.euler_step(u, score(u, t), t, t - times[i + 1])
        halves = sde.scored_halves(sde.scored(u))
        for half, e, std in zip(halves, sde.scored_halves(next(noise)), stds[i], strict=True):
            half.add_(e, alpha=std)
        return u

    return FixedSteps(times, step)
