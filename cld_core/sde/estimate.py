"""E[x_0 | u_t] from the score of the scored halves alone (docs/math.md section 14.1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Diffusion
from .matrices import combined


@dataclass(frozen=True)
class Estimate:
    """Coefficients at a time t of x_hat = ``of_u`` u + ``of_score`` s.

    With r = L^-1 u and q = L^-1 Psi_0, each half has r_i = q_i x_0 + e_i. For each scored half, the
    score gives the mean of e_i, hence a solution for x_0. E[x_0 | u] is the mean of these
    solutions, weighted by q_i^2. If the score is exact, they all agree.

    If e_i has the root-mean-square error ``score_error``, the solution has the error score_error /
    q_i, which is large if u contains little information about x_0, as for t near 1. So x_hat is the
    mean of the solution and of the estimate from u alone for data N(0, data_std^2 I), weighted by
    their precisions.

    Attributes:
        of_u: (..., n), factors of the halves of u.
        of_score: (..., m), factors of the parts of the score.
        pull: (..., m), (Sigma^-1 Psi_0)_S. The derivative of x_hat by u_S is this times the
            covariance of x_0 given u.
        variance: (...,), the variance of each number of x_0 given u, for data N(0, data_std^2 I).
    """

    of_u: Tensor
    of_score: Tensor
    pull: Tensor
    variance: Tensor

    def posterior_mean(self, sde: Diffusion, u: Tensor, score: Tensor) -> Tensor:
        """x_hat, (B, C, ...), in the type of u (B, nC, ...); score is (B, mC, ...)."""
        factors = torch.cat([self.of_u, self.of_score], dim=-1)
        return combined(factors[..., None, :], (*sde.halves(u), *sde.scored_halves(score)))


def estimate(
    sde: Diffusion, t: float | Tensor, *, score_error: float = 0.0, data_std: float = 1.0
) -> Estimate:
    """The `Estimate` at t, numerical_eps included."""
    first = sde.unscored
    whiten, q = sde.information(t)
    scored = q[..., first:, :]
    of_u = (whiten[..., first:, :].mT @ scored)[..., 0]
    of_score = (sde.inverse_target(t).mT @ scored)[..., 0]
    precision = data_std**-2 + q.square().sum(-2)
    weight = scored.square().sum(-2) + score_error**2 * precision
    mean = of_u / weight + score_error**2 / weight * (whiten.mT @ q)[..., 0]
    return Estimate(mean, of_score / weight, of_u[..., first:], 1.0 / precision[..., 0])


def posterior_mean(sde: Diffusion, u: Tensor, score: Tensor, t: float | Tensor) -> Tensor:
    """E[x_0 | u_t = u], (B, C, ...), from the score (B, mC, ...) at u (B, nC, ...) and t
    (docs/math.md section 14.1).

    It is exact for an exact score under the kernel of ``sde``, numerical_eps included.
    """
    return estimate(sde, t).posterior_mean(sde, u, score)
