"""E[x_0 | u_t] from the score of the scored halves alone (docs/math.md section 14.1)."""

from typing import Generic

import torch
from torch import Tensor

from cld_core.sde import Diffusion
from cld_core.sde.coefficients import combine
from cld_core.sde.explained import explained
from cld_core.sde.number import Number
from cld_core.sde.rows import dot, transposed


class Estimate(Generic[Number]):
    """Coefficients at a time t of x_hat = ``of_u`` u + ``of_score`` s.

    If the score is exact, it is E[x_0 | u] (`sde.explained.Explained`, which has q and e).

    A score whose e_i has the root-mean-square error ``score_error`` causes an error of score_error / q_i in that
    solution. This is large if u contains little information about x_0, as for t near 1. x_hat is therefore its mean
    with the estimate from u alone for data N(0, data_std^2 I), weighted by their precisions.

    Attributes:
        of_u: (n,), factors of the halves of u.
        of_score: (m,), factors of the parts of the score.
        pull: (m,), c = (Sigma^-1 Psi_0)_S: the derivative of x_hat by u_S is c times the covariance of x_0 given u.
        variance: of each number of x_0 given u, for data N(0, data_std^2 I).
    """

    of_u: tuple[Number, ...]
    of_score: tuple[Number, ...]
    pull: tuple[Number, ...]
    variance: Number

    def __init__(self, sde: Diffusion, t: Number, *, score_error: float = 0.0, data_std: float = 1.0) -> None:
        found = explained(sde, t)
        precision = 1.0 / data_std**2 + dot(found.q, found.q)
        weight = found.weight + score_error**2 * precision
        share = score_error**2 / weight
        columns = zip(found.of_u, transposed(found.whitening), strict=True)
        self.of_u = tuple(entry / weight + share * dot(found.q, column) for entry, column in columns)
        self.of_score = tuple(entry / weight for entry in found.of_score)
        self.pull = found.of_u[sde.n - sde.m :]
        self.variance = 1.0 / precision

    def posterior_mean(self, sde: Diffusion, u: Tensor, score: Tensor) -> Tensor:
        """x_hat, (B, C, ...), in the type of u (B, nC, ...); score is (B, mC, ...)."""
        parts = (*sde.halves(u), *sde.scored_halves(score))
        return combine((*self.of_u, *self.of_score), parts)


def posterior_mean(sde: Diffusion, u: Tensor, score: Tensor, t: float | Tensor) -> Tensor:
    """E[x_0 | u_t = u], (B, C, ...), from the score (B, mC, ...) at u (B, nC, ...) and t (docs/math.md section 14.1).

    It is exact for an exact score under the kernel of ``sde``, numerical_eps included.
    """
    return Estimate(sde, t).posterior_mean(sde, u, score)


def as_numbers(value: float | Tensor, batch: int, device: torch.device) -> Tensor:
    """A coefficient as (batch,), float64."""
    return torch.as_tensor(value, dtype=torch.float64, device=device).expand(batch)
