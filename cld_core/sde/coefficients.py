"""The border between float64 coefficients and the tensors they multiply."""

import torch
from torch import Tensor


def spread(coefficient: float | Tensor, like: Tensor) -> float | Tensor:
    """A (B,) coefficient cast to the type of ``like`` (B, ...) and shaped to multiply it; floats pass."""
    if not isinstance(coefficient, Tensor):
        return coefficient
    return coefficient.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))


def as_batch(t: float | Tensor, batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The time of each sample, (batch,), whatever form ``t`` has."""
    if isinstance(t, Tensor):
        return t.to(device=device, dtype=dtype).expand(batch)
    return torch.full((batch,), t, device=device, dtype=dtype)
