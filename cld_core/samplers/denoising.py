"""The last step of a sampler (docs/math.md section 7)."""

from torch import Tensor

from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion


def denoised(score: ScoreFunction, sde: Diffusion, u: Tensor, eps: float) -> Tensor:
    """The mean of one Euler-Maruyama step from u at ``eps`` to time 0; one evaluation."""
    return sde.euler_step(u, score(u, eps), eps, eps)
