"""Data-variance preconditioning: inputs and outputs of the network scaled as for Gaussian data (docs/math.md, 5.1).

It generalises that of EDM (Karras et al. 2022, arXiv 2206.00364, section 5 and appendix B.6) to any `Diffusion`. If the
data had the law N(0, data_std^2 I), u at t would have a covariance C = K K^T and a score that is linear in *all*
halves. The network sees z = K^-1 u, which then has unit covariance, and outputs the rest of the score, in units of the
standard deviation of x around its linear estimate.
"""

from dataclasses import dataclass
from typing import Any, Generic

from cld_core.sde import Diffusion
from cld_core.sde.explained import strengths
from cld_core.sde.number import Number, sqrt
from cld_core.sde.rows import Rows, cholesky, dot, inverse_of_lower, matmul, square, transposed


@dataclass(frozen=True, slots=True)
class Preconditioning(Generic[Number]):
    """The score is s = N f(z, t) - P z_S, with z = whiten u, the network f, and the scored halves z_S of z."""

    whiten: Rows[Number]  # K^-1, (n, n), lower triangular, stored without zeros
    precision: Rows[Number]  # P, (m, m), upper triangular: the scored block of K^-T
    output: Rows[Number]  # N, (m, m), diagonal


def preconditioning(sde: Diffusion, t: Any, data_std: float) -> Preconditioning[Any]:
    """The coefficients at t, a float or a float64 tensor of times, for data of standard deviation ``data_std``.

    They are the same for both objectives: halves other than x have their random initial values, as in samples.
    numerical_eps is included.
    """
    first = sde.n - sde.m
    psi = tuple(row[0] for row in sde.mean(t))
    factor = square(sde.factor(t))
    # The covariance is a sum of two covariances, so nothing cancels.
    covariance = tuple(
        tuple(data_std**2 * (psi[i] * psi[j]) + dot(factor[i], factor[j]) for j in range(i + 1)) for i in range(sde.n)
    )
    whiten = inverse_of_lower(cholesky(covariance))
    precision = transposed(square(tuple(row[first:] for row in whiten[first:])))
    # u contains x with the factor w in units of the noise, so the linear estimate of x has the error variance open_^2.
    _, w = strengths(sde, t)
    open_ = data_std / sqrt(1.0 + data_std**2 * dot(w, w))
    gains = matmul(sde.target(t), tuple((entry,) for entry in w[first:]))
    output = tuple(
        tuple(gain * open_ if i == j else 0.0 * gain for j in range(sde.m)) for i, (gain,) in enumerate(gains)
    )
    return Preconditioning(whiten, precision, output)
