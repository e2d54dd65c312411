"""E[x_0 | u_t] from the score of the scored halves alone (docs/math.md section 14.1)."""

from typing import Generic

import torch
from torch import Tensor

from cld_core.sde import Diffusion
from cld_core.sde.coefficients import combine
from cld_core.sde.number import Number
from cld_core.sde.rows import dot, inverse, square, transposed


class Estimate(Generic[Number]):
    """Coefficients at a time t of x_hat = ``of_u`` u + ``of_score`` s.

    With the kernel u = Psi_0 x_0 + L e, q = L^-1 Psi_0 and r = L^-1 u, each half i has r_i = q_i x_0 + e_i, and the
    score gives the mean of e_i of the scored ones: a solution for x_0 of each. x_hat is their mean, weighted by q_i^2.
    If the score is exact, all of them agree.

    A score whose e_i is off by ``score_error`` (root mean square) puts that solution off by score_error / q_i, which is
    much where u says little of x_0, as at t near 1. x_hat is then its mean with what u says by itself of data
    N(0, data_std^2 I), weighted by their precisions.

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
        first = sde.n - sde.m
        rows = inverse(square(sde.factor(t)))
        q = tuple(dot(row, tuple(psi[0] for psi in sde.mean(t))) for row in rows)
        scored = q[first:]
        precision = 1.0 / data_std**2 + dot(q, q)
        weight = dot(scored, scored) + score_error**2 * precision
        by_target = inverse(sde.target(t))
        share = score_error**2 / weight
        self.of_u = tuple(
            dot(scored, entries[first:]) / weight + share * dot(q, entries) for entries in transposed(rows)
        )
        self.of_score = tuple(dot(scored, entries) / weight for entries in transposed(by_target))
        self.pull = tuple(dot(scored, entries[first:]) for entries in transposed(rows)[first:])
        self.variance = 1.0 / precision

    def posterior_mean(self, sde: Diffusion, u: Tensor, score: Tensor) -> Tensor:
        """x_hat, (B, C, ...), in the type of u (B, nC, ...); score is (B, mC, ...)."""
        parts = (*sde.halves(u), *sde.scored_halves(score))
        return combine((*self.of_u, *self.of_score), parts)


def posterior_mean(sde: Diffusion, u: Tensor, score: Tensor, t: float | Tensor) -> Tensor:
    """E[x_0 | u_t = u], (B, C, ...), from the score (B, mC, ...) at u (B, nC, ...) and t (docs/math.md section 14.1).

    Exact if the score is that of data under the kernel of ``sde``, numerical_eps included.
    """
    return Estimate(sde, t).posterior_mean(sde, u, score)


def as_numbers(value: float | Tensor, batch: int, device: torch.device) -> Tensor:
    """A coefficient as (batch,), float64."""
    return torch.as_tensor(value, dtype=torch.float64, device=device).expand(batch)
