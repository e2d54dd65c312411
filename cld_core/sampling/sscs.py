"""The symmetric splitting CLD sampler SSCS (the paper, section 3.3; docs/math.md section 7)."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from cld_core.score import ScoreFunction
from cld_core.sde import CLD, kernel


def half_step(sde: CLD, u: Tensor, t: float, t_next: float, noise: Tensor) -> Tensor:
    """Exact solution of the reverse process' Ornstein-Uhlenbeck part from t down to t_next.

    Reversed in time it is the forward process with the velocity's sign changed, so its mean map and covariance
    are those of `kernel` with the off-diagonal entries' signs changed. ``noise`` is shaped as u, (B, 2C, ...).
    """
    big_d = sde.schedule.between(t_next, t)
    a = kernel.transition(big_d, sde.m_inv)
    l_xx, l_vx, l_vv = kernel.covariance(big_d, sde.m_inv).cholesky()
    (x, v), (noise_x, noise_v) = sde.split(u), sde.split(noise)
    out = torch.empty_like(u)
    out_x, out_v = sde.split(out)
    torch.mul(x, a.xx, out=out_x).add_(v, alpha=-a.xv).add_(noise_x, alpha=l_xx)
    torch.mul(v, a.vv, out=out_v).add_(x, alpha=-a.vx).add_(noise_x, alpha=-l_vx).add_(noise_v, alpha=l_vv)
    return out


def sscs(score: ScoreFunction, sde: CLD, u: Tensor, times: list[float], noise: Iterator[Tensor]) -> Tensor:
    """u (B, 2C, ...) at times[-1], from u at times[0]; one evaluation a step.

    ``noise`` yields (B, 4C, ...) once a step: that of the first half step, then that of the second.
    """
    for t, t_next in pairwise(times):
        middle = 0.5 * (t + t_next)
        first, second = next(noise).chunk(2, dim=1)
        u = half_step(sde, u, t, middle, first)
        v = sde.scored(u)
        v.add_(torch.add(score(u, t), v, alpha=sde.m_inv), alpha=sde.diffusion2(t) * (t - t_next))
        u = half_step(sde, u, middle, t_next, second)
    return u
