"""Axes of charts: where values lie, which ticks stand there, and how numbers are written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Literal

# The share of the smallest, and of the largest, values that may be outside the frame.
_OUTLIERS = 0.01
# A smaller difference is none: its share would underflow.
_LEAST = 1e-300
# Values that span more than so many powers of ten need a logarithmic axis, and fewer need ticks between the powers.
_DECADES = 2.0
# Powers of ten on a logarithmic axis, at most.
_MOST_POWERS = 6
# The smallest share of the largest value that a symmetric axis tells from zero.
_FINEST = 1e-12
_ABOUT = 4
# Powers of ten beyond this are zero, or more than a float can be.
_EXPONENT = 305.0

Kind = Literal["linear", "log", "symlog"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of y.

    Attributes:
        low: the value at its lower end.
        high: the value at its upper end.
        unit: of a symmetric axis, the size below which it is linear.
    """

    low: float
    high: float
    kind: Kind = "linear"
    unit: float = 1.0

    def share(self, value: float) -> float:
        """How far up a value lies, from 0 to 1; what is outside lies at an end."""
        first, last = self._place(self.low), self._place(self.high)
        return (self._place(min(max(value, self.low), self.high)) - first) / (last - first)

    def ticks(self) -> list[float]:
        """Round numbers between its ends, approximately four if it is linear."""
        powers = self._powers() if self.kind != "linear" else []
        return powers if len(powers) > 1 else ticks(self.low, self.high, _ABOUT)

    def _place(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(value)
        return math.asinh(value / (2 * self.unit)) if self.kind == "symlog" else value

    def _value(self, place: float) -> float:
        if self.kind == "log":
            return float(10.0 ** min(max(place, -_EXPONENT), _EXPONENT))
        return 2 * self.unit * math.sinh(place) if self.kind == "symlog" else place

    def _powers(self) -> list[float]:
        """Powers of ten, each second or third of them if there are many; on both sides of a symmetric axis."""
        largest = math.log10(max(abs(self.low), abs(self.high)))
        is_symmetric = self.kind == "symlog"
        # Next to zero there is no room for the label of a power.
        least = math.log10(3 * self.unit if is_symmetric else self.low)
        sides = 2 if is_symmetric and min(-self.low, self.high) > 10 * self.unit else 1
        every = max(math.ceil(sides * (largest - least) / _MOST_POWERS), 1)
        factors = (1, 2, 5) if largest - least <= _DECADES and not is_symmetric else (1,)
        first = every * (math.ceil(least / every) if is_symmetric else math.floor(least / every))
        exponents = range(first, math.floor(largest) + 1, every)
        found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        if is_symmetric:
            found = [*(-value for value in reversed(found)), 0.0, *found]
        return [value for value in found if self.low <= value <= self.high]

    def around(self, low: float, high: float) -> "Axis":
        """An axis of this kind from below ``low`` to above ``high``."""
        first, last = self._place(low), self._place(high)
        margin = 0.05 * (last - first)
        return Axis(low=self._value(first - margin), high=self._value(last + margin), kind=self.kind, unit=self.unit)


def fitting(lines: Sequence[Sequence[float]], *, may_be_log: bool = False) -> Axis:
    """The axis for the values of some lines, of which there is one at least. Outliers are outside.

    Args:
        may_be_log: whether it is logarithmic if values span over two powers of ten; symmetric around zero, if some of
            them are not positive.
    """
    ordered = sorted(chain.from_iterable(lines))
    beyond = int(_OUTLIERS * len(ordered))
    low, high = ordered[beyond], ordered[-1 - beyond]
    if may_be_log and low > _LEAST and math.log10(high) - math.log10(low) > _DECADES:
        return Axis(low=low, high=high, kind="log").around(low, high)
    if may_be_log and low <= 0 and (unit := _unit(lines, max(abs(low), abs(high)))) is not None:
        return Axis(low=low, high=high, kind="symlog", unit=unit).around(low, high)
    # Values that differ by less than floats can tell apart are one.
    least = 1e-9 * max(abs(low), abs(high))
    margin = 0.05 * (high - low) if high - low > least else 0.1 * abs(high)
    margin = margin if margin > _LEAST else 1.0
    return Axis(low=low - margin, high=high + margin)


def _unit(lines: Sequence[Sequence[float]], largest: float) -> float | None:
    """The typical size of the smallest line; None if the largest value is not much larger."""
    sizes = [median(abs(value) for value in line) for line in lines if line]
    unit = max(min(sizes), largest * _FINEST)
    return unit if unit > _LEAST and math.log10(largest) - math.log10(unit) > _DECADES else None


def span(values: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest value, or what is around the only one."""
    first, last = min(values), max(values)
    largest = max(abs(first), abs(last))
    if last - first > max(1e-12 * largest, _LEAST):
        return first, last
    margin = max(0.5, 1e-3 * largest)
    return first - margin, last + margin


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within a range, approximately ``about`` of them."""
    size = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(size))
    step = next(multiple * unit for multiple in (1, 2, 5, 10) if multiple * unit >= size)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def compact(value: float) -> str:
    """A number for an axis, for example 0.25, 950, 12.5k, 1.2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e12:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"
