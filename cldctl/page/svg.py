"""Curves as inline SVG."""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

_WIDTH, _HEIGHT = 420, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 26, 26
# The number of points that a curve of this width can show.
_POINTS = 400
# The share of the smallest, and of the largest, values that may be outside the frame.
_OUTLIERS = 0.01
# Differences of two values stay finite.
_LARGEST = 1e300


def curve(title: str, points: Sequence[tuple[float, float]]) -> str:
    """One curve with axes. Values that are not finite are left out, and outliers are clipped to the frame."""
    finite = [(x, y) for x, y in points if abs(y) < _LARGEST]
    head = f'<text x="{_LEFT}" y="16" class="title">{escape(title)}</text>'
    if not finite:
        return _frame(f'{head}<text x="{_LEFT}" y="{_HEIGHT // 2}">no finite value</text>')
    low, high = _range([y for _, y in finite])
    left, right = finite[0][0], finite[-1][0]
    right = right if right > left else left + 1

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        clipped = min(max(y, low), high)
        return across, _HEIGHT - _BOTTOM - (clipped - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [head]
    for value in ticks(low, high, 4):
        _, y = at(left, value)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in ticks(left, right, 4) if len(finite) > 1 else [left]:
        x, _ = at(value, low)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{value:,.6g}</text>')
    shown = [at(x, y) for x, y in thinned(finite, _POINTS)]
    if len(shown) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
        parts.append(f'<polyline points="{path}" class="curve"/>')
    if len(shown) <= 40:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" class="dot"/>' for x, y in shown]
    return _frame("".join(parts))


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within a range, approximately ``about`` of them."""
    size = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(size))
    step = next(multiple * unit for multiple in (1, 2, 5, 10) if multiple * unit >= size)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def thinned(points: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """At most ``count`` points, each the mean of equally many neighbours."""
    if len(points) <= count:
        return list(points)
    bounds = [index * len(points) // count for index in range(count + 1)]
    means = []
    for first, last in pairwise(bounds):
        part = points[first:last]
        means.append((part[-1][0], sum(y for _, y in part) / len(part)))
    return means


def _range(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    beyond = int(_OUTLIERS * len(ordered))
    low, high = ordered[beyond], ordered[-1 - beyond]
    margin = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _frame(inner: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{inner}</svg>'
