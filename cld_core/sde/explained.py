"""What u reveals about the data x_0 under the kernel u = Psi_0 x_0 + L e (docs/math.md section 14.1)."""

from dataclasses import dataclass
from typing import Generic

from cld_core.sde.base import Diffusion
from cld_core.sde.number import Number
from cld_core.sde.rows import Rows, dot, inverse, square, transposed


def strengths(sde: Diffusion, t: Number) -> tuple[Rows[Number], tuple[Number, ...]]:
    """L^-1 (n, n), and q = L^-1 Psi_0 (n,): the factor of x_0 in each half of L^-1 u, whose noise has variance 1."""
    whitening = inverse(square(sde.factor(t)))
    psi = tuple(row[0] for row in sde.mean(t))
    return whitening, tuple(dot(row, psi) for row in whitening)


@dataclass(frozen=True, slots=True)
class Explained(Generic[Number]):
    """The scored halves determine x_0: ``weight`` E[x_0 | u] = ``of_u`` u + ``of_score`` s.

    With r = L^-1 u, each half has r_i = q_i x_0 + e_i. For each scored half, the score gives the mean of e_i, hence a
    solution for x_0. E[x_0 | u] is the mean of these, weighted by q_i^2. If the score is exact, they all agree.
    """

    whitening: Rows[Number]  # L^-1, (n, n)
    q: tuple[Number, ...]  # (n,), L^-1 Psi_0
    of_u: tuple[Number, ...]  # (n,); in the scored halves, (Sigma^-1 Psi_0)_S
    of_score: tuple[Number, ...]  # (m,)
    weight: Number  # the squares of q in the scored halves


def explained(sde: Diffusion, t: Number) -> Explained[Number]:
    """`Explained` at t, numerical_eps included."""
    first = sde.n - sde.m
    whitening, q = strengths(sde, t)
    scored = q[first:]
    of_u = tuple(dot(scored, column[first:]) for column in transposed(whitening))
    of_score = tuple(dot(scored, column) for column in transposed(inverse(sde.target(t))))
    return Explained(whitening, q, of_u, of_score, dot(scored, scored))
