"""Where float64 coefficients meet the tensors that they multiply."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cld_core.sde.rows import Rows


def spread(coefficient: float | Tensor, like: Tensor) -> float | Tensor:
    """A (B,) coefficient, cast to the type of ``like`` (B, ...) and shaped to multiply it; a float as it is."""
    if not isinstance(coefficient, Tensor):
        return coefficient
    return coefficient.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))


def combine(coefficients: Sequence[float | Tensor], parts: Sequence[Tensor]) -> Tensor:
    """Sum of coefficient times tensor, added from left to right. All ``parts`` have the same shape, (B, ...)."""
    first, *others = (spread(c, part) * part for c, part in zip(coefficients, parts, strict=True))
    for term in others:
        first = first + term
    return first


def apply(matrix: Rows, u: Tensor) -> Tensor:
    """The matrix (k, j) applied to the j parts of u (B, jC, ...); the result is (B, kC, ...)."""
    if len(matrix) == len(matrix[0]) == 1:
        return spread(matrix[0][0], u) * u
    parts = u.chunk(len(matrix[0]), dim=1)
    out = [combine(row, parts) for row in matrix]
    return out[0] if len(out) == 1 else torch.cat(out, dim=1)


def stacked(matrix: Rows, times: Tensor) -> Tensor:
    """The matrix (k, j) at each of ``times`` (K,) as one tensor (K, k, j), float64."""
    entries = [torch.as_tensor(c, dtype=torch.float64).expand_as(times) for row in matrix for c in row]
    return torch.stack(entries, dim=1).unflatten(1, (len(matrix), -1))


def as_batch(t: float | Tensor, batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The time of each example, (batch,), from one time or from one time per example."""
    if isinstance(t, Tensor):
        return t.to(device=device, dtype=dtype).expand(batch)
    return torch.full((batch,), t, device=device, dtype=dtype)
