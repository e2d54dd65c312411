"""Matrices that act on the halves of u: where float64 coefficients meet the tensors that they multiply.

A matrix is a float64 tensor: (k, j) for one time that all examples share, then on the CPU, or (B, k, j) with one for
each example.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def spread(coefficient: float | Tensor, like: Tensor) -> float | Tensor:
    """A (B,) coefficient, cast to the type of ``like`` (B, ...) and shaped to multiply it; a float as it is."""
    if not isinstance(coefficient, Tensor):
        return coefficient
    return coefficient.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))


def combined(matrix: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """The matrix, (k, j) or (B, k, j), applied to j parts of the same shape (B, C, ...); the result is (B, kC, ...)."""
    if matrix.ndim == 2:
        rows = [_sum(row, parts) for row in matrix.tolist()]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
    if matrix.shape[1:] == (1, 1):
        return parts[0] * spread(matrix, parts[0])
    wide = matrix.to(parts[0].dtype).reshape(*matrix.shape, *(1,) * (parts[0].ndim - 1))
    first, *others = zip(wide.unbind(2), parts, strict=True)
    total = first[0] * first[1][:, None]
    for column, part in others:
        # Not `addcmul`: an entry must not depend on its batch, and that may round twice or once.
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
    """The matrix, (k, j) or (B, k, j), applied to the j parts of u (B, jC, ...); the result is (B, kC, ...)."""
    return combined(matrix, u.chunk(matrix.shape[-1], dim=1) if matrix.shape[-1] > 1 else (u,))


def add(u: Tensor, matrix: Tensor, w: Tensor) -> None:
    """u += matrix w, in place, for u (B, kC, ...), a matrix (k, j) and w (B, jC, ...)."""
    parts = w.chunk(matrix.shape[1], dim=1)
    for target, row in zip(u.chunk(len(matrix), dim=1), matrix.tolist(), strict=True):
        for part, factor in zip(parts, row, strict=True):
            if factor:
                target.add_(part, alpha=factor)


def as_batch(t: float | Tensor, batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The time of each example, (batch,), from one time or from one time per example."""
    if isinstance(t, Tensor):
        return t.to(device=device, dtype=dtype).expand(batch)
    return torch.full((batch,), t, device=device, dtype=dtype)
