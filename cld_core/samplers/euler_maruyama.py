"""Euler-Maruyama for the reverse SDE (docs/math.md section 7)."""

import math
from itertools import pairwise

from torch import Tensor

from cld_core.config.sampling import EmSpec
from cld_core.samplers import UNWATCHED, Draws, Watcher, ended, grid_of
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion


def sample(
    score: ScoreFunction,
    sde: Diffusion,
    spec: EmSpec,
    u: Tensor,
    draws: Draws,
    watcher: Watcher = UNWATCHED,
) -> tuple[Tensor, int]:
    """See `cld_core.samplers`. One evaluation per step; only the scored halves are noisy."""
    times = grid_of(spec, sde.schedule)
    steps = len(times) - 1
    noise = draws(steps, sde.m)
    for step, (t, t_next) in enumerate(pairwise(times)):
        watcher.visit(t, u, step / steps)
        dt = t - t_next
        u = sde.euler_step(u, score(u, t), t, dt)
        parts = zip(
            sde.halves(u)[-sde.m :],
            sde.scored_halves(next(noise)),
            sde.diffusion2(t).tolist(),
            strict=True,
        )
        for half, e, rate in parts:
            half.add_(e, alpha=math.sqrt(rate * dt))
    watcher.visit(spec.eps, u, 1.0)
    return ended(score, sde, spec, u, steps)
