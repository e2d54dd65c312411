"""The kernel of CLD for one coordinate pair (x, v): transition matrix, covariance, Cholesky factor.

Written in the dimensionless variables of docs/math.md section 2, b = 2B/Gamma and y = v / sqrt(M), in which the
stationary law is N(0, I) and every entry is a sum of terms of one sign: nothing cancels at small t.
All functions take floats, or float64 tensors or arrays of any shape.
"""

import math
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch

from cld_core.sde.number import Number, exp, sqrt
from cld_core.sde.rows import Rows

# The series is used below this value. Here the closed form has lost 3 of 16 digits and the series none.
SERIES_BELOW = 0.25
# 6/(k+3)! for k = 0..10: the 12th term is below 1e-18 of the first at `SERIES_BELOW`.
_SERIES = [6.0 / math.factorial(k + 3) for k in range(11)]


def gamma3_series(z: Number, exp_minus_z: Number) -> Number:
    """P(3, z) by its series, exact for small z (eleven terms: for z up to `SERIES_BELOW`)."""
    tail: Number = _SERIES[-1] * z + _SERIES[-2]
    for c in reversed(_SERIES[:-2]):
        tail = tail * z + c
    return tail * exp_minus_z * z * z * z / 6.0


def gamma3_closed(z: Number, exp_minus_z: Number) -> Number:
    """P(3, z) by its closed form, which loses all digits for small z."""
    return 1.0 - exp_minus_z * (1.0 + z + 0.5 * z * z)


def gamma3(z: Number, exp_minus_z: Number) -> Number:
    """Regularised lower incomplete gamma function P(3, z) = 1 - exp(-z) (1 + z + z^2/2), z >= 0."""
    small = z < SERIES_BELOW
    if isinstance(z, torch.Tensor):
        assert isinstance(small, torch.Tensor), "a comparison of tensors is one"
        return torch.where(small, gamma3_series(z, exp_minus_z), gamma3_closed(z, exp_minus_z))
    if isinstance(z, np.ndarray):
        result = gamma3_closed(z, exp_minus_z)
        if small.any():
            result[small] = gamma3_series(z[small], exp_minus_z[small])
        return result
    return gamma3_series(z, exp_minus_z) if small else gamma3_closed(z, exp_minus_z)


@dataclass(frozen=True, slots=True)
class Covariance(Generic[Number]):
    """A symmetric 2x2 matrix and its determinant, which is more accurate than one computed from the entries."""

    xx: Number
    xv: Number
    vv: Number
    det: Number

    def cholesky(self) -> Rows[Number]:
        """((Lxx,), (Lvx, Lvv)), the lower triangular factor."""
        l_xx = sqrt(self.xx)
        return (l_xx,), (self.xv / l_xx, sqrt(self.det / self.xx))

    @property
    def ell(self) -> Number:
        """1 / Lvv, the factor of the score's regression target."""
        return sqrt(self.xx / self.det)


def transition(big_b: Number, m_inv: float) -> Rows[Number]:
    """Psi(B), the mean map of (x, v) (docs/math.md section 2)."""
    omega = math.sqrt(m_inv)
    b = omega * big_b
    decay = exp(-b)
    return (decay * (1.0 + b), decay * b * omega), (-decay * b / omega, decay * (1.0 - b))


def covariance(
    big_b: Number, m_inv: float, *, var_x: float = 0.0, var_y: float = 0.0, numerical_eps: float = 0.0
) -> Covariance[Number]:
    """Covariance of (x, v) at B(t) = ``big_b``, starting from diag(var_x, var_y M).

    ``numerical_eps`` is added to the diagonal at the end. With both variances 0 it is the covariance of the
    noise alone, Sigma_inf - Psi Sigma_inf Psi^T, which `CLD.reverse` needs.
    """
    b = math.sqrt(m_inv) * big_b
    z = 2.0 * b
    decay2 = exp(-z)
    noise_xx = gamma3(z, decay2)
    noise_xy = z * b * decay2
    noise_yy = noise_xx + 4.0 * b * decay2
    det = noise_xx * noise_yy - noise_xy * noise_xy
    xx, xy, yy = noise_xx, noise_xy, noise_yy
    # Each initial variance adds a rank-one term along a column p = exp(-b) (p0, p1) of Psi, and to the
    # determinant the (positive) value of adj(noise) at p.
    columns = [(var_x, 1.0 + b, -b)] if var_x else []
    columns += [(var_y, b, 1.0 - b)] if var_y else []
    for variance, p0, p1 in columns:
        w = variance * decay2
        xx, xy, yy = xx + w * p0 * p0, xy + w * p0 * p1, yy + w * p1 * p1
        det = det + w * (p0 * p0 * noise_yy - 2.0 * p0 * p1 * noise_xy + p1 * p1 * noise_xx)
    if var_x and var_y:
        det = det + var_x * var_y * decay2 * decay2
    xv, vv, det = xy / math.sqrt(m_inv), yy / m_inv, det / m_inv
    if numerical_eps:
        det = det + numerical_eps * (xx + vv + numerical_eps)
        xx, vv = xx + numerical_eps, vv + numerical_eps
    return Covariance(xx, xv, vv, det)
