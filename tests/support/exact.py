"""Kernels of linear diffusions in 60 decimal digits, where cancellation does no harm."""

from collections.abc import Sequence
from typing import Any

import mpmath

from cld_core.sde import Diffusion

_DIGITS = 60


def _matrix(rows: Sequence[Sequence[float]]) -> Any:
    return mpmath.matrix([[mpmath.mpf(entry) for entry in row] for row in rows])


def moments(sde: Diffusion, a: Sequence[Sequence[float]], big_b: float) -> tuple[Any, Any]:
    """exp(A B), and the covariance of the noise by the exponential of a matrix of twice the size (Van Loan)."""
    n = sde.n
    with mpmath.workdps(_DIGITS):
        drift, block = _matrix(a), mpmath.zeros(2 * n)
        for i in range(n):
            for j in range(n):
                block[i, j], block[n + i, n + j] = drift[i, j], -drift[j, i]
        for i, d in enumerate(sde.D, start=n - sde.m):
            block[i, n + i] = mpmath.mpf(d)
        whole = mpmath.expm(block * mpmath.mpf(big_b), method="taylor")
        psi = whole[:n, :n]
        return psi, whole[:n, n:] * psi.T


def covariance(sde: Diffusion, t: float, initial: Sequence[float], eps: float = 0.0) -> Any:
    """Sigma_t from independent halves of standard deviations ``initial``, plus ``eps`` on the diagonal."""
    with mpmath.workdps(_DIGITS):
        psi, noise = moments(sde, sde.A, sde.schedule.integral(t))
        start = mpmath.diag([mpmath.mpf(std) ** 2 for std in initial])
        return noise + psi * start * psi.T + mpmath.mpf(eps) * mpmath.eye(sde.n)


def lower_factor(matrix: Any) -> Any:
    """Its Cholesky factor."""
    with mpmath.workdps(_DIGITS):
        return mpmath.cholesky(matrix)


def inverse(matrix: Any) -> Any:
    with mpmath.workdps(_DIGITS):
        return mpmath.inverse(matrix)


def errors(ours: Sequence[Sequence[float]], exact: Any) -> list[float]:
    """Of each entry, relative to itself; of those that are exactly 0, as they are."""
    with mpmath.workdps(_DIGITS):
        found = []
        for i, row in enumerate(ours):
            for j, entry in enumerate(row):
                off = abs(mpmath.mpf(float(entry)) - exact[i, j])
                found.append(float(off / abs(exact[i, j]) if abs(exact[i, j]) > 1e-55 else off))
        return found
