"""Transition matrix and noise covariance of a linear diffusion by a Taylor series and doubling (docs/math.md 11.1).

Other methods lose digits by cancellation: the matrix exponential of twice the size (Van Loan) at large times, and the
difference between the stationary covariance and what the process remembers at small times.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cld_core.sde.number import Number
from cld_core.sde.rows import Rows

# With ||A|| h <= 1/2 the terms of N fall faster than h^k / (k + 1)!: the 22nd is below 1e-21 of the first.
_TERMS = 22
_SMALL = 0.5


@dataclass(frozen=True, eq=False)
class Series:
    """Psi(B) = exp(A B) and N(B), the integral of Psi(s) Q Psi(s)^T over s from 0 to B, for 0 < B <= ``reach``.

    Both are summed at h = B / 2^doublings, and then doubled. Every entry has a relative error of about 1e-13, however
    small it is, except near a B at which it changes sign. At small B, where an entry may be of order B^5, no terms of
    different signs are added. At large B, where the halves become independent, the off-diagonal entries of N are
    computed from what the process still remembers.
    """

    coefficients: np.ndarray  # (terms, n, 2n): of h^k in (Psi, N)
    doublings: int
    radius: float  # the largest B at which the series needs no doubling
    stationary: np.ndarray  # (n,), the variances of N as B goes to infinity

    def __call__(self, big_b: Number) -> tuple[Rows[Number], Rows[Number]]:
        """Psi and N, (n, n) each, at B: a float, or a tensor or array of any shape."""
        if isinstance(big_b, torch.Tensor) and big_b.device.type == "cpu" and not big_b.requires_grad:
            # The same numbers in half the time (see `number.by_numpy`).
            array: Any = big_b.numpy()
            psi, noise = self(array)
            return _tensors(psi), _tensors(noise)
        n = self.coefficients.shape[1]
        h: Any = big_b * 0.5**self.doublings
        constants, stationary = _constants(self, h.device) if isinstance(h, torch.Tensor) else self._arrays
        dimensions = (1,) * getattr(h, "ndim", 0)
        first, *others = (constant.reshape(*constant.shape, *dimensions) for constant in constants)
        total = first
        for constant in others:
            total = total * h + constant
        psi, noise = total[:, :n], total[:, n:]
        for _ in range(self.doublings):
            noise = noise + _product(_product(psi, noise), psi.swapaxes(0, 1))
            psi = _product(psi, psi)
        noise = _independent(psi, noise, stationary.reshape(-1, *dimensions), big_b > self.radius)
        return _rows(psi, big_b), _rows(noise, big_b)

    @functools.cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The coefficients, those of the highest power first, and the stationary variances."""
        return np.ascontiguousarray(self.coefficients[::-1]), self.stationary


def _independent(psi: Any, noise: Any, stationary: Any, late: Any) -> Any:
    """N, with off-diagonal entries of -Psi Sigma_inf Psi^T where its terms are smaller than the scale of the halves.

    Only at a ``late`` B, where the sum of the series has terms of different signs. Before, it is the terms of this form
    that cancel, although they are smaller than the scale of the halves if both are very noisy.
    """
    remembered = _product(psi * stationary, psi.swapaxes(0, 1))
    terms = _product(abs(psi) * stationary, abs(psi.swapaxes(0, 1)))
    where = torch.where if isinstance(psi, torch.Tensor) else np.where
    n = len(psi)
    out = [[noise[i, j] for j in range(n)] for i in range(n)]
    for i in range(n):
        for j in range(i):
            closer = late & (terms[i, j] * terms[i, j] < noise[i, i] * noise[j, j])
            out[i][j] = out[j][i] = where(closer, -remembered[i, j], noise[i, j])
    return out


def _product(a: Any, b: Any) -> Any:
    """The matrix product of (n, n, ...) and (n, n, ...), in a fixed order, so that no entry depends on its batch."""
    total = a[:, 0, None] * b[None, 0]
    for k in range(1, len(b)):
        total = total + a[:, k, None] * b[None, k]
    return total


def _tensors(rows: Any) -> Any:
    return tuple(tuple(torch.as_tensor(entry) for entry in row) for row in rows)


def _rows(matrix: Any, like: Any) -> Any:
    """The entries of (n, n, ...): floats if B is one."""
    if isinstance(like, float):
        return tuple(tuple(float(entry) for entry in row) for row in matrix)
    return tuple(tuple(row) for row in matrix)


@functools.lru_cache(maxsize=64)
def _constants(series: Series, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """`Series._arrays`, copied to a GPU once, because a copy waits for it."""
    coefficients, stationary = series._arrays
    return torch.from_numpy(coefficients).to(device), torch.from_numpy(stationary).to(device)


@functools.lru_cache(maxsize=64)
def series(a: Rows[float], noise: tuple[float, ...], prior_std: tuple[float, ...], reach: float) -> Series:
    """The series for the drift ``a`` (n, n), white noise of variances ``noise`` (n,), and B up to ``reach``.

    ``prior_std`` (n,) is that of the stationary law, whose halves are independent.
    """
    n = len(a)
    drift, units = np.array(a, dtype=np.float64), np.array(prior_std, dtype=np.float64)
    norm = float(np.abs(drift * units / units[:, None]).sum(1).max())
    power, covariance = np.eye(n), np.diag(np.array(noise, dtype=np.float64))
    coefficients = [np.concatenate([power, np.zeros((n, n))], axis=1)]
    for k in range(1, _TERMS):
        power, covariance = drift @ power / k, covariance / k
        coefficients.append(np.concatenate([power, covariance], axis=1))
        covariance = drift @ covariance + covariance @ drift.T
    doublings = max(0, math.ceil(math.log2(norm * reach / _SMALL)))
    return Series(np.stack(coefficients), doublings, _SMALL / norm, units * units)
