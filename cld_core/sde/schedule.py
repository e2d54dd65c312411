"""The schedule beta(t) = beta0 + beta1 t and its integral: the only place with these two formulas."""

import math
from dataclasses import dataclass

from torch import Tensor

from cld_core.sde.number import Number


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """beta(t) on [0, 1]; ``t`` is a float or a float64 tensor of any shape."""

    beta0: float
    beta1: float

    def beta(self, t: Number) -> Number:
        return self.beta0 + self.beta1 * t

    def rate(self, t: float | Tensor) -> float | Tensor:
        """beta(t); a single float if it is the same at all times."""
        return self.beta(t) if self.beta1 else self.beta0

    def integral(self, t: Number) -> Number:
        """B(t), the integral of beta from 0 to t."""
        return t * (self.beta0 + 0.5 * self.beta1 * t) if self.beta1 else t * self.beta0

    def between(self, start: float, end: float) -> float:
        """B(end) - B(start), computed without the cancellation of that difference."""
        return (end - start) * (self.beta0 + 0.5 * self.beta1 * (start + end))

    def time(self, big_b: float) -> float:
        """The t at which B(t) = ``big_b``; in a form that is also valid for beta1 = 0."""
        return 2.0 * big_b / (self.beta0 + math.sqrt(self.beta0 * self.beta0 + 2.0 * self.beta1 * big_b))
