"""Euler-Maruyama for the reverse SDE (docs/math.md section 7)."""

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from cld_core.score import ScoreFunction
from cld_core.sde import SDE


def euler_maruyama(score: ScoreFunction, sde: SDE, u: Tensor, times: list[float], noise: Iterator[Tensor]) -> Tensor:
    """u (B, 2C or C, ...) at times[-1], from u at times[0]; one evaluation a step.

    ``noise`` yields (B, C, ...) once a step: only the scored half is noisy.
    """
    for t, t_next in pairwise(times):
        dt = t - t_next
        u = sde.euler_step(u, score(u, t), t, dt)
        sde.scored(u).add_(next(noise), alpha=math.sqrt(sde.diffusion2(t) * dt))
    return u
