"""Matrices that act on the halves of u: where float64 coefficients meet the tensors that they
multiply.

A matrix is a float64 tensor: (k, j), on the CPU, for one time that all examples share, or
(B, k, j), one for each example.

The matrices of a diffusion itself are computed here: transition, covariance of the noise, and
triangular factors. These are arrays (n, n, N), of numpy on the CPU and of torch on a GPU, so that
an entry of all N matrices is contiguous. No formula adds terms that cancel, however small a time is
(docs/math.md section 11.1).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# One number for each of some halves.
PerHalf = tuple[float, ...]
# The rows of a matrix.
Entries = tuple[PerHalf, ...]
# With ||A|| h <= 1/2 the terms of N fall faster than h^k / (k + 1)!: the 22nd is below 1e-21 of the
# first.
_TERMS = 22
_SMALL = 0.5


def spread(coefficient: float | Tensor, like: Tensor) -> float | Tensor:
    """A coefficient (B,), cast to the type of ``like`` (B, ...) and shaped to multiply it; a float
    is returned unchanged."""
    if not isinstance(coefficient, Tensor):
        return coefficient
    return coefficient.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))


def combined(matrix: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """(B, kC, ...): the matrix, (k, j) or (B, k, j), applied to j parts of shape (B, C, ...)."""
    if matrix.ndim == 2:
        rows = [_sum(row, parts) for row in matrix.tolist()]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
    if matrix.shape[1:] == (1, 1):
        return parts[0] * spread(matrix, parts[0])
    wide = matrix.to(parts[0].dtype).reshape(*matrix.shape, *(1,) * (parts[0].ndim - 1))
    first, *others = zip(wide.unbind(2), parts, strict=True)
    total = first[0] * first[1][:, None]
    for column, part in others:
        # `addcmul` rounds once or twice, depending on the batch; an entry must not depend on it.
        total = total + column * part[:, None]
    return total.flatten(1, 2)


def _sum(factors: Sequence[float], parts: Sequence[Tensor]) -> Tensor:
    terms = [(factor, part) for factor, part in zip(factors, parts, strict=True) if factor]
    if not terms:
        return torch.zeros_like(parts[0])
    (factor, part), *others = terms
    total = part * factor
    for factor, part in others:
        total = torch.add(total, part, alpha=factor)
    return total


def apply(matrix: Tensor, u: Tensor) -> Tensor:
    """(B, kC, ...): the matrix, (k, j) or (B, k, j), applied to the j parts of u (B, jC, ...)."""
    return combined(matrix, u.chunk(matrix.shape[-1], dim=1) if matrix.shape[-1] > 1 else (u,))


def add(u: Tensor, matrix: Tensor, w: Tensor) -> None:
    """u += matrix w, in place, for u (B, kC, ...), a matrix (k, j) and w (B, jC, ...)."""
    parts = w.chunk(matrix.shape[1], dim=1)
    for target, row in zip(u.chunk(len(matrix), dim=1), matrix.tolist(), strict=True):
        for part, factor in zip(parts, row, strict=True):
            if factor:
                target.add_(part, alpha=factor)


def as_batch(t: float | Tensor, batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The times of a batch, (batch,), from one time or from one per example."""
    if isinstance(t, Tensor):
        return t.to(device=device, dtype=dtype).expand(batch)
    return torch.full((batch,), t, device=device, dtype=dtype)


def module_of(array: Any) -> Any:
    """numpy or torch, whose functions that are used here have the same names."""
    return torch if isinstance(array, torch.Tensor) else np


def product(a: Any, b: Any) -> Any:
    """The matrix product (k, l, N) of (k, n, N) and (n, l, N).

    Terms are added in a fixed order, so that no entry depends on its batch.
    """
    total = a[:, 0, None] * b[None, 0]
    for k in range(1, len(b)):
        total = total + a[:, k, None] * b[None, k]
    return total


def cholesky(a: Any, eps: float = 0.0) -> Any:
    """The lower triangular factor L of A + eps I = L L^T, which is positive definite."""
    module = module_of(a)
    lower = module.zeros_like(a)
    for j in range(len(a)):
        column = a[j:, j]
        for k in range(j):
            column = column - lower[j:, k] * lower[j, k]
        lower[j, j] = module.sqrt(column[0] + eps if eps else column[0])
        if len(column) > 1:
            lower[j + 1 :, j] = column[1:] / lower[j, j]
    return lower


def add_column(lower: Any, p: Any) -> None:
    """Change the lower triangular L in place to the factor of L L^T + p p^T; p (n, N) is lost.

    The plane rotations of L and p are a QR decomposition. Unlike the Cholesky decomposition of the
    sum, they lose no digits.
    """
    sqrt = module_of(lower).sqrt
    for i in range(len(lower)):
        pivot = lower[i, i]
        radius = sqrt(pivot * pivot + p[i] * p[i])
        if i + 1 < len(lower):
            cosine = pivot / radius
            sine = p[i] / radius
            below = cosine * lower[i + 1 :, i] + sine * p[i + 1 :]
            p[i + 1 :] = cosine * p[i + 1 :] - sine * lower[i + 1 :, i]
            lower[i + 1 :, i] = below
        lower[i, i] = radius


def inverse_of_lower(lower: Any) -> Any:
    """The inverse of a lower triangular matrix."""
    out = module_of(lower).zeros_like(lower)
    for i in range(len(lower)):
        out[i, i] = 1.0 / lower[i, i]
        if i:
            row = product(-lower[i : i + 1, :i], out[:i, :i])[0]
            out[i, :i] = row * out[i, i]
    return out


@dataclass(frozen=True, eq=False)
class Series:
    """Psi(B) = exp(A B), and N(B), the integral of Psi(s) Q Psi(s)^T over s from 0 to B.

    Both are summed at h = B / 2^doublings, and then doubled. Every entry has a relative error of
    about 1e-13, however small it is, except near a B at which it changes sign. At small B, where an
    entry may be of order B^5, no terms of different signs are added. At large B, where the halves
    become independent, the off-diagonal entries of N are computed from what the process still
    remembers, Psi Sigma_inf Psi^T.

    Other methods lose digits by cancellation: the matrix exponential of twice the size (Van Loan)
    at large times, and the difference Sigma_inf - Psi Sigma_inf Psi^T at small times.
    """

    coefficients: np.ndarray  # (terms, n, 2n): of h^k in (Psi, N), those of the highest power first
    doublings: int
    radius: float  # the largest B at which the series needs no doubling
    stationary: np.ndarray  # (n,), the variances of N as B goes to infinity

    def __call__(self, big_b: Any) -> tuple[Any, Any]:
        """Psi and N, (n, n, N) each, at B (N,)."""
        constants: tuple[Any, Any] = (self.coefficients, self.stationary)
        if isinstance(big_b, torch.Tensor):
            constants = _on(self, big_b.device)
        coefficients, stationary = constants
        n = len(stationary)
        h = big_b * 0.5**self.doublings
        total = coefficients[0, :, :, None]
        for constant in coefficients[1:]:
            total = total * h + constant[:, :, None]
        psi = total[:, :n]
        noise = total[:, n:]
        for _ in range(self.doublings):
            noise = noise + product(product(psi, noise), psi.swapaxes(0, 1))
            psi = product(psi, psi)
        return psi, _independent(psi, noise, stationary[:, None], big_b > self.radius)


def _independent(psi: Any, noise: Any, stationary: Any, late: Any) -> Any:
    """N, with the off-diagonal entries of -Psi Sigma_inf Psi^T where the terms of these are small.

    Small is less than the scale of the halves. This is done at a ``late`` B only, where the series
    has terms of different signs. At an earlier B, the terms of this form cancel, although they are
    small as well if both halves are very noisy.
    """
    remembered = product(psi * stationary, psi.swapaxes(0, 1))
    terms = product(abs(psi) * stationary, abs(psi.swapaxes(0, 1)))
    for i in range(len(psi)):
        for j in range(i):
            closer = late & (terms[i, j] * terms[i, j] < noise[i, i] * noise[j, j])
            entry = module_of(psi).where(closer, -remembered[i, j], noise[i, j])
            noise[i, j] = entry
            noise[j, i] = entry
    return noise


@functools.lru_cache(maxsize=64)
def _on(series: Series, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The constants of a series on a GPU. They are copied once, because a copy waits for it."""
    coefficients = torch.from_numpy(series.coefficients).to(device)
    return coefficients, torch.from_numpy(series.stationary).to(device)


@functools.lru_cache(maxsize=64)
def series(a: Entries, noise: PerHalf, prior_std: PerHalf, reach: float) -> Series:
    """The series for a linear diffusion.

    Args:
        a: (n, n), the drift.
        noise: (n,), variances of the white noise.
        prior_std: (n,), standard deviations of the stationary law, whose halves are independent.
        reach: the largest B.
    """
    n = len(a)
    drift = np.array(a, dtype=np.float64)
    units = np.array(prior_std, dtype=np.float64)
    norm = float(np.abs(drift * units / units[:, None]).sum(1).max())
    power = np.eye(n)
    covariance = np.diag(np.array(noise, dtype=np.float64))
    coefficients = [np.concatenate([power, np.zeros((n, n))], axis=1)]
    for k in range(1, _TERMS):
        power = drift @ power / k
        covariance = covariance / k
        coefficients.append(np.concatenate([power, covariance], axis=1))
        covariance = drift @ covariance + covariance @ drift.T
    doublings = max(0, math.ceil(math.log2(norm * reach / _SMALL)))
    return Series(np.stack(coefficients[::-1]), doublings, _SMALL / norm, units * units)
