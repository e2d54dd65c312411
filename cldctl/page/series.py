"""Curves as lists of points: without what is not finite, smoothed, and thinned for a page."""

import itertools
from collections.abc import Sequence

Point = tuple[float, float]

# Differences of two values stay finite.
LARGEST = 1e300
# A curve of fewer points is shown as it is.
_FEWEST = 24
# The share of all points over which one smoothed value is the mean.
_WINDOW = 0.04


def finite(points: Sequence[tuple[float, float]]) -> list[Point]:
    """The points whose values are finite numbers."""
    return [(float(x), float(y)) for x, y in points if abs(y) < LARGEST]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Means over windows that are centred on each point and cut off at both ends; none of a short curve."""
    if len(points) < _FEWEST:
        return []
    half = max(1, round(_WINDOW * len(points) / 2))
    # Sums of differences from one value: a curve with a large offset keeps its digits.
    offset = points[0][1]
    sums = [0.0, *itertools.accumulate(y - offset for _, y in points)]
    means = []
    for place, (x, _) in enumerate(points):
        first, last = max(0, place - half), min(len(points), place + half + 1)
        means.append((x, offset + (sums[last] - sums[first]) / (last - first)))
    return means


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most ``most`` of the points: the first, the last, and of each stretch the smallest and the largest value."""
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    stretches = max(1, (most - 2) // 2)
    kept = [points[0]]
    for index in range(stretches):
        part = inner[index * len(inner) // stretches : (index + 1) * len(inner) // stretches]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return [*kept, points[-1]]
