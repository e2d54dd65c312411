"""Coefficients are numbers of one of two kinds, computed by the same formulas."""

import math
from typing import TypeVar

import torch

# A Python float for one time that the whole batch shares, or a (B,) float64 tensor with a time per example.
Number = TypeVar("Number", float, torch.Tensor, float | torch.Tensor)


def exp(z: Number) -> Number:
    return torch.exp(z) if isinstance(z, torch.Tensor) else math.exp(z)


def sqrt(z: Number) -> Number:
    return torch.sqrt(z) if isinstance(z, torch.Tensor) else math.sqrt(z)


def minus_expm1(z: Number) -> Number:
    """1 - exp(-z)."""
    return -torch.expm1(-z) if isinstance(z, torch.Tensor) else -math.expm1(-z)
