"""A curve in one line of text."""

import math
from collections.abc import Sequence
from itertools import pairwise

_LEVELS = "▁▂▃▄▅▆▇█"
# The share of the values, at either end, that may be beyond the highest or the lowest level.
_OUTLIERS = 0.02


def sparkline(values: Sequence[float], width: int) -> str:
    """At most ``width`` characters, each for the mean of equally many values; empty without a finite value."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    ordered = sorted(finite)
    beyond = int(_OUTLIERS * len(ordered))
    low, high = ordered[beyond], ordered[-1 - beyond]
    return "".join(_LEVELS[_level(mean, low, high)] for mean in means(finite, width))


def means(values: Sequence[float], most: int) -> list[float]:
    """At most ``most`` values, each the mean of equally many neighbours; finite ones only."""
    count = min(most, len(values))
    bounds = [place * len(values) // count for place in range(count + 1)] if count else [0]
    return [_mean(values[first:last]) for first, last in pairwise(bounds)]


def _mean(values: Sequence[float]) -> float:
    # Not the sum first: losses of anybody may be as large as a float can be.
    return math.fsum(value / len(values) for value in values)


def _level(value: float, low: float, high: float) -> int:
    if not high > low:
        return 0
    share = (value / 2 - low / 2) / (high / 2 - low / 2)
    return min(max(int(share * len(_LEVELS)), 0), len(_LEVELS) - 1)
