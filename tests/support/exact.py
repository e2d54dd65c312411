"""Kernels of linear diffusions in 200 decimal digits, where cancellation does no harm."""

import functools

import mpmath

_DIGITS = 200


# A test asks for those of a time again with other initial halves.
@functools.cache
def moments(sde, a, big_b):
    """exp(A B), and the covariance of the noise, by an exponential of twice the size (Van Loan)."""
    n = sde.n
    with mpmath.workdps(_DIGITS):
        drift = mpmath.matrix(a)
        block = mpmath.zeros(2 * n)
        for i in range(n):
            for j in range(n):
                block[i, j] = drift[i, j]
                block[n + i, n + j] = -drift[j, i]
        for i, d in enumerate(sde.D, start=n - sde.m):
            block[i, n + i] = mpmath.mpf(d)
        whole = mpmath.expm(block * mpmath.mpf(big_b), method="taylor")
        psi = whole[:n, :n]
        return psi, whole[:n, n:] * psi.T


def covariance(sde, t, initial, eps=0.0):
    """Sigma_t from independent halves of standard deviations ``initial``, plus ``eps`` on the
    diagonal."""
    with mpmath.workdps(_DIGITS):
        psi, noise = moments(sde, sde.A, sde.schedule.integral(t))
        start = mpmath.diag([mpmath.mpf(std) ** 2 for std in initial])
        return noise + psi * start * psi.T + mpmath.mpf(eps) * mpmath.eye(sde.n)


def lower_factor(matrix, order=None):
    """Its factor that is lower triangular if rows and columns are in this order."""
    n = matrix.rows
    order = range(n) if order is None else order
    with mpmath.workdps(_DIGITS):
        within = mpmath.cholesky(mpmath.matrix([[matrix[i, j] for j in order] for i in order]))
        out = mpmath.zeros(n)
        for a, i in enumerate(order):
            for b, j in enumerate(order):
                out[i, j] = within[a, b]
        return out


def inverse(matrix):
    with mpmath.workdps(_DIGITS):
        return mpmath.inverse(matrix)


def errors(ours, exact):
    """Of each entry, relative to itself, or to 1e-5 of the largest in its row if that is more.

    Two halves of equal initial variance and opposite coupling stay uncorrelated to first order: the
    terms of such an entry cancel, and what is left is too small to matter.
    """
    with mpmath.workdps(_DIGITS):
        found = []
        for i, row in enumerate(ours):
            largest = max(abs(exact[i, j]) for j in range(exact.cols))
            for j, entry in enumerate(row):
                size = max(abs(exact[i, j]), largest * mpmath.mpf("1e-5"))
                found.append(float(abs(mpmath.mpf(float(entry)) - exact[i, j]) / size))
        return found
