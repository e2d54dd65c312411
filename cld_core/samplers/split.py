"""The split of the score into a known part and a rest (docs/math.md section 7.2), and the last step of a sampler."""

import functools

from torch import Tensor

from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.matrices import add, apply


@functools.lru_cache(maxsize=4096)
def _known(sde: Diffusion, t: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`Diffusion.known`: the times of a grid come again with every batch."""
    return sde.known(t)


def rest(score: ScoreFunction, sde: Diffusion, u: Tensor, t: float) -> Tensor:
    """alpha := -E^-1 (s + K u_S) at u and t, (B, mC, ...): the score without its known part."""
    _, _, inverse, shift = _known(sde, t)
    alpha = apply(-inverse, score(u, t))
    add(alpha, -shift, sde.scored(u))
    return alpha


def score_from_rest(alpha: Tensor, sde: Diffusion, u: Tensor, t: float) -> Tensor:
    """The score s = -E alpha - K u_S, (B, mC, ...)."""
    target, known, _, _ = _known(sde, t)
    score = apply(-target, alpha)
    add(score, -known, sde.scored(u))
    return score


def denoised(score: ScoreFunction, sde: Diffusion, u: Tensor, eps: float) -> Tensor:
    """The mean of one Euler-Maruyama step from u at ``eps`` to time 0; one evaluation (docs/math.md section 7)."""
    return sde.euler_step(u, score(u, eps), eps, eps)
