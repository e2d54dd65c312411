"""The symmetric splitting CLD sampler SSCS (the paper, section 3.3), of first and of second order (docs/math.md 7)."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from cld_core.sampling.quadrature import segments
from cld_core.score import ScoreFunction
from cld_core.sde import CLD, kernel


def exact_part(sde: CLD, u: Tensor, t: float, t_next: float, noise: Tensor) -> Tensor:
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


def _middles(times: list[float]) -> list[float]:
    """Times at which the score part acts, one a step. Between two of them the exact part acts in one piece.

    The second half of a step and the first half of the next are both exact, hence together the exact part over both.
    """
    return [0.5 * (t + t_next) for t, t_next in pairwise(times)]


def sscs(score: ScoreFunction, sde: CLD, u: Tensor, times: list[float], noise: Iterator[Tensor]) -> Tensor:
    """u (B, 2C, ...) at times[-1], from u at times[0]; one evaluation a step.

    ``noise`` yields (B, 2C, ...), once more often than there are steps.
    """
    now = times[0]
    for (t, t_next), middle in zip(pairwise(times), _middles(times), strict=True):
        u = exact_part(sde, u, now, middle, next(noise))
        v = sde.scored(u)
        v.add_(torch.add(score(u, t), v, alpha=sde.m_inv), alpha=sde.diffusion2(t) * (t - t_next))
        now = middle
    return exact_part(sde, u, now, times[-1], next(noise))


@dataclass(frozen=True)
class Kick:
    """Solution v <- factor v + weight alpha of the score part, with x and alpha kept."""

    factor: float
    weight: float


@functools.lru_cache(maxsize=64)
def kicks(sde: CLD, times: tuple[float, ...]) -> tuple[tuple[Kick, Kick], ...]:
    """For each step the kick over its first half and that over the whole of it.

    The score part is dv/dt = -g^2 (s + v/M), in the alpha of `exponential` g^2 (1/Svv - 1/M) v + g^2 ell alpha.
    """

    def matrix(t: Tensor) -> Tensor:
        return (sde.diffusion2(t) * (sde.known_precision(t) - sde.m_inv))[:, None, None]

    steps = zip(_middles(list(times)), times[1:], strict=True)
    with_middles = [times[0], *(t for step in steps for t in step)]
    halves = []
    for segment in segments(with_middles, matrix):
        field = (sde.diffusion2(segment.times) * sde.ell(segment.times))[:, None]
        halves.append(Kick(float(segment.whole), float(segment.integral(field))))
    pairs = zip(halves[::2], halves[1::2], strict=True)
    return tuple((a, Kick(b.factor * a.factor, b.factor * a.weight + b.weight)) for a, b in pairs)


def sscs_second_order(score: ScoreFunction, sde: CLD, u: Tensor, times: list[float], noise: Iterator[Tensor]) -> Tensor:
    """As `sscs`, with an error that falls with the square of the number of steps; one evaluation a step.

    The score part is exact in v for its linear part, and takes alpha at the middle of the step, in t and in v. The
    v there is predicted with the last step's alpha, which for a second order is near enough.
    """
    alpha: Tensor | None = None  # it vanishes with the data's influence, at t = 1
    now = times[0]
    for middle, (half, whole) in zip(_middles(times), kicks(sde, tuple(times)), strict=True):
        u = exact_part(sde, u, now, middle, next(noise))
        v = sde.scored(u)
        start = v.clone()
        v.mul_(half.factor)
        if alpha is not None:
            v.add_(alpha, alpha=half.weight)
        alpha = score(u, middle).add(v, alpha=sde.known_precision(middle)).mul_(-1.0 / sde.ell(middle))
        torch.mul(start, whole.factor, out=v).add_(alpha, alpha=whole.weight)
        now = middle
    return exact_part(sde, u, now, times[-1], next(noise))
