"""E[x_0 | u_t] from the score of the scored halves alone (docs/math.md section 11.1)."""

import torch
from torch import Tensor

from cld_core.sde import Diffusion
from cld_core.sde.coefficients import combine
from cld_core.sde.number import Number
from cld_core.sde.rows import Rows, dot, inverse_of_lower, inverse_of_upper


class Estimate:
    """Coefficients at a time t of x_hat = ``of_u`` u + ``of_score`` s.

    With the kernel u = Psi_0 x_0 + L e, q = L^-1 Psi_0 and r = L^-1 u, each scored half i has r_i = q_i x_0 + e_i, and
    the score gives the mean of e_i. x_hat is the least-squares solution for the scored halves; if the score is exact,
    all of them agree.

    Attributes:
        of_u: (n,), factors of the halves of u.
        of_score: (m,), factors of the parts of the score.
        pull: (m,), c = (Sigma^-1 Psi_0)_S: the derivative of x_hat by u_S is c times the covariance of x_0 given u.
        information: |q|^2 over all halves, the precision of x_0 given u if nothing is known of it before.
    """

    def __init__(self, sde: Diffusion, t: Number) -> None:
        first = sde.n - sde.m
        inverse = inverse_of_lower(sde.factor(t))
        column = tuple(row[0] for row in sde.mean(t))
        q = tuple(dot(row, column[: len(row)]) for row in inverse)
        scored = q[first:]
        square = dot(scored, scored)
        by_target = inverse_of_upper(sde.target(t))
        self.of_u = tuple(self._entry(scored, inverse[first:], j) / square for j in range(sde.n))
        self.of_score = tuple(dot(scored, tuple(row[j] for row in by_target)) / square for j in range(sde.m))
        self.pull = tuple(
            dot(q[i:], tuple(row[i] for row in inverse[i:])) for i in range(first, sde.n)
        )
        self.information = dot(q, q)

    @staticmethod
    def _entry(q: tuple[Number, ...], rows: Rows[Number], j: int) -> Number:
        """Entry j of q times the rows of a lower triangular matrix."""
        terms = [(a, row[j]) for a, row in zip(q, rows, strict=True) if j < len(row)]
        return dot(*(tuple(side) for side in zip(*terms, strict=True)))

    def posterior_mean(self, sde: Diffusion, u: Tensor, score: Tensor) -> Tensor:
        """x_hat, (B, C, ...), in the type of u (B, nC, ...); score is (B, mC, ...)."""
        parts = (*sde.halves(u), *sde.scored_halves(score))
        return combine((*self.of_u, *self.of_score), parts)

    def isotropic_variance(self, data_std: float) -> Number:
        """Variance of each number of x_0 given u if the data were N(0, data_std^2 I)."""
        variance = data_std * data_std
        return variance / (1.0 + variance * self.information)


def posterior_mean(sde: Diffusion, u: Tensor, score: Tensor, t: float | Tensor) -> Tensor:
    """E[x_0 | u_t = u], (B, C, ...), from the score (B, mC, ...) at u (B, nC, ...) and t (docs/math.md section 11.1).

    Exact if the score is that of data under the kernel of ``sde``, numerical_eps included.
    """
    return Estimate(sde, t).posterior_mean(sde, u, score)


def as_numbers(value: float | Tensor, batch: int, device: torch.device) -> Tensor:
    """A coefficient as (batch,), float64."""
    return torch.as_tensor(value, dtype=torch.float64, device=device).expand(batch)
