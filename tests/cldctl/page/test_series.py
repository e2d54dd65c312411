"""Curves are thinned without losing their extremes, and smoothed without losing their level."""

import math

import pytest

from cldctl.page import series


def test_thinning_keeps_ends_and_extremes():
    points = [(float(x), math.sin(x / 50)) for x in range(10_000)]
    points[4_321] = (4_321.0, 9.0)
    points[7_777] = (7_777.0, -9.0)
    kept = series.thinned(points, 200)
    assert len(kept) <= 200
    assert {points[0], points[-1], points[4_321], points[7_777]} <= set(kept)
    assert kept == sorted(kept)
    assert series.thinned(points[:50], 100) == points[:50]


@pytest.mark.parametrize("count", [3, 10, 11, 201])
def test_thinned_to_few_points(count):
    kept = series.thinned([(float(x), float(x % 7)) for x in range(count)], 10)
    assert len(kept) <= 10
    assert (kept[0][0], kept[-1][0]) == (0.0, count - 1.0)


def test_smoothing_keeps_a_level_and_removes_noise():
    level = [(float(x), 5.0 + (-1) ** x) for x in range(1_000)]
    means = series.smoothed(level)
    assert [x for x, _ in means] == [x for x, _ in level]
    assert max(abs(y - 5.0) for _, y in means) < 0.06
    large = series.smoothed([(float(x), 1e12 + x) for x in range(1_000)])
    assert large[500] == (500.0, 1e12 + 500)
    assert series.smoothed(level[:10]) == []


def test_only_finite_values_are_points():
    assert series.finite([(1, 2.0), (2, math.nan), (3, math.inf), (4, -math.inf), (5, 1e308)]) == [(1.0, 2.0)]
