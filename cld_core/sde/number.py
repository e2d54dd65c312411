"""Coefficients are floats or tensors, computed by the same formulas."""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import torch

# A Python float for one time that the whole batch shares, or a (B,) float64 tensor with a time per example.
Number = TypeVar("Number", float, torch.Tensor, float | torch.Tensor)

_Formula = TypeVar("_Formula", bound=Callable[..., Any])


def exp(z: Number) -> Number:
    return torch.exp(z) if isinstance(z, torch.Tensor) else _of_array(torch.exp, math.exp, z)


def sqrt(z: Number) -> Number:
    return torch.sqrt(z) if isinstance(z, torch.Tensor) else _of_array(torch.sqrt, math.sqrt, z)


def log(z: Number) -> Number:
    return torch.log(z) if isinstance(z, torch.Tensor) else _of_array(torch.log, math.log, z)


def _of_array(by_torch: Callable[..., torch.Tensor], otherwise: Callable[[float], float], z: Any) -> Any:
    """A function of an array or a float: numpy's own functions round differently from torch's."""
    return by_torch(torch.from_numpy(z)).numpy() if isinstance(z, np.ndarray) else otherwise(z)


def minus_expm1(z: Number) -> Number:
    """1 - exp(-z)."""
    return -torch.expm1(-z) if isinstance(z, torch.Tensor) else -math.expm1(-z)


def by_numpy(formula: _Formula) -> _Formula:
    """The method ``formula(self, t, ...)``, which computes with numpy if t is a tensor on the CPU.

    Formulas are dozens of operations on a few hundred numbers. A numpy call takes half the time of a torch call, and
    sums, products and quotients are bit-identical. Inside, ``t`` is an array, which supports only operators, `exp` and
    `sqrt`. Arrays in the result, or in tuples of it, are returned as tensors.
    """

    @functools.wraps(formula)
    def computed(self: Any, t: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(t, torch.Tensor) or t.device.type != "cpu" or t.requires_grad or t.ndim == 0:
            return formula(self, t, *args, **kwargs)
        with np.errstate(all="ignore"):  # as torch does
            return _as_tensors(formula(self, t.numpy(), *args, **kwargs))

    return cast(_Formula, computed)


def _as_tensors(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_as_tensors(entry) for entry in value)
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
