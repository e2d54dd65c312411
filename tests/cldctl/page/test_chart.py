"""Where lines, ticks and error bars of a chart are."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cldctl.page.axis import Axis, compact, fitting, ticks
from cldctl.page.chart import Line, chart, curve, positions

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
STEPS = st.floats(-1e300, 1e300, exclude_min=True, exclude_max=True)


def test_a_line_spans_the_frame_and_carries_its_values():
    drawn = chart("loss", [Line(label="loss", points=[(0.0, 1.0), (10.0, 3.0)])])
    left, top, right, bottom = drawn.frame
    (line,) = drawn.lines
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line.path.split())
    assert (x0, x1) == (pytest.approx(left, abs=0.06), pytest.approx(right, abs=0.06))
    assert top < y1 < y0 < bottom, "upwards, with a margin"
    assert line.data == "0,1 10,3"
    assert drawn.about == "loss against step: 2 points; loss ends at 3"


def test_a_long_curve_is_shown_behind_its_mean():
    points = [(step, 1.0 + math.sin(step)) for step in range(5_000)]
    behind, mean = curve("loss", points).lines
    assert (behind.line.faint, mean.line.faint, mean.line.label) == (True, False, "loss (smoothed)")
    assert len(behind.data.split()) <= 400
    short = curve("loss", [(1, 1.0), (2, math.nan), (3, 2.0)])
    assert [line.data for line in short.lines] == ["1,1 3,2"]
    assert curve("loss", [(1, math.inf)]) is None


def test_outliers_are_clipped_and_keep_their_values():
    points = [(float(x), 1.0) for x in range(200)]
    points[100] = (100.0, 1e9)
    drawn = chart("loss", [Line(label="loss", points=points)])
    assert drawn.bounds[3] < 2
    assert "100,1e+09" in drawn.lines[0].data
    assert all(drawn.frame[1] <= float(point.split(",")[1]) for point in drawn.lines[0].path.split())


def test_error_bars_reach_from_lower_to_upper_end():
    drawn = chart("nll", [Line(label="nll", points=[(1.0, 0.0), (2.0, 1.0)], errors={1: 0.5})])
    ((_, upper, lower),) = drawn.lines[0].bars
    _, y = drawn.lines[0].dots[1]
    assert upper < y < lower
    assert drawn.lines[0].data == "1,0 2,1,0.5"
    assert drawn.bounds[3] > 1.5, "bars are inside"


def test_ticks_are_round_and_labels_do_not_overlap():
    assert ticks(0.13, 1.02, 4) == [0.5, 1.0]
    assert [compact(value) for value in (0.25, 950.0, 12_500.0, 800_000.0, 1.2e6, -3e9)] == [
        *("0.25", "950", "12.5k", "800k", "1.2M", "-3G"),
    ]
    names = [(float(x), f"a_rather_long_name_{x}") for x in range(30)]
    drawn = chart("fid", [Line(label="fid", points=[(x, x) for x, _ in names])], names=names)
    ends = [(tick.at - 3.8 * len(tick.label), tick.at + 3.8 * len(tick.label)) for tick in drawn.x_ticks]
    assert ends[0][0] >= 0
    assert ends[-1][1] <= drawn.width
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ends))
    assert drawn.names["29"] == "a_rather_long_name_29"


@pytest.mark.parametrize("value", [0.0, 1e-300, -7.5, 1e299])
def test_a_level_curve_and_a_single_point_have_axes(value):
    for points in ([(5.0, value)], [(5.0, value), (6.0, value)]):
        drawn = chart("level", [Line(label="level", points=points)])
        assert drawn.y_ticks
        assert drawn.x_ticks


def test_positions_of_swept_values():
    assert positions(["20", "50", "150"]) == {"20": math.log10(20), "50": math.log10(50), "150": math.log10(150)}
    assert positions(["1", "2", "4"]) == {"1": 1.0, "2": 2.0, "4": 4.0}
    assert positions(["em", "ode"]) == {"em": 0.0, "ode": 1.0}
    assert positions(["1", "inf"]) == {"1": 0.0, "inf": 1.0}


def test_values_over_two_powers_of_ten_are_logarithmic_where_they_may_be():
    large = [Line(label="large", points=[(0.0, 1e3), (1.0, 2e3)]), Line(label="small", points=[(0.0, 2.0), (1.0, 1.0)])]
    drawn = chart("loss", large, may_be_log=True)
    assert drawn.axis.kind == "log"
    assert [tick.label for tick in drawn.y_ticks] == ["1", "10", "100", "1k"]
    gaps = [before.at - after.at for before, after in itertools.pairwise(drawn.y_ticks)]
    assert gaps == pytest.approx([gaps[0]] * 3)
    assert "on a logarithmic axis" in drawn.about
    assert chart("step", large).axis.kind == "linear"
    assert chart("loss", large[:1], may_be_log=True).axis.kind == "linear"


def test_losses_on_both_sides_of_zero_have_a_symmetric_axis():
    lines = [[-0.5, 0.1, 0.4, -0.2], [900.0, 1000.0]]
    axis = fitting(lines, may_be_log=True)
    assert axis.kind == "symlog"
    assert axis.ticks() == [0.0, 1.0, 10.0, 100.0, 1000.0]
    shares = [axis.share(value) for value in (-0.5, -0.2, 0.0, 0.4, 900.0, 1000.0)]
    assert shares == sorted(shares)
    assert shares[3] - shares[0] > 0.1, "the small ones can be told apart"
    assert fitting([[-0.5, 0.1, 0.4, -0.2], [1.0, 2.0]], may_be_log=True).kind == "linear"


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (Axis(low=0.4, high=30, kind="log"), [0.5, 1, 2, 5, 10, 20]),
        (Axis(low=1e-9, high=2e9, kind="log"), [1e-8, 1e-4, 1, 1e4, 1e8]),
        (Axis(low=0.31, high=0.34, kind="log"), [0.31, 0.32, 0.33, 0.34]),
        (Axis(low=-2e6, high=150, kind="symlog", unit=0.1), [-1e6, -1e3, -1, 0, 1]),
    ],
)
def test_ticks_of_logarithmic_axes_are_powers_of_ten(axis, expected):
    assert axis.ticks() == pytest.approx(expected)


@given(st.lists(st.tuples(STEPS, FLOATS), min_size=1, max_size=6), st.booleans())
def test_any_finite_values_make_a_chart_or_none(points, may_be_log):
    points = sorted(points)
    drawn = chart("loss", [Line(label="loss", points=points)], may_be_log=may_be_log)
    if drawn is None:
        assert all(abs(y) >= 1e300 for _, y in points)
        return
    left_x, right_x, low, high = drawn.bounds
    assert left_x < right_x
    assert low < high
    left, top, right, bottom = drawn.frame
    for x, y in drawn.lines[0].dots:
        assert left - 1e-6 <= x <= right + 1e-6
        assert top - 1e-6 <= y <= bottom + 1e-6
    assert all(math.isfinite(tick.at) for tick in (*drawn.x_ticks, *drawn.y_ticks))


@pytest.mark.parametrize("may_be_log", [False, True])
@pytest.mark.parametrize("values", [(0.0, 5e-324), (5e-324,), (0.0,), (-1e299, 1e299), (2e-300, 9e299), (0.0, 9e299)])
def test_values_at_the_ends_of_what_floats_can_say(values, may_be_log):
    for points in (list(enumerate(values)), [(value, 1.0) for value in values]):
        drawn = chart("loss", [Line(label="loss", points=points)], may_be_log=may_be_log)
        assert drawn is not None
        assert drawn.y_ticks


@given(st.lists(FLOATS.map(repr), min_size=1, max_size=5, unique=True))
def test_any_numbers_have_positions_that_can_be_drawn(values):
    found = positions(values)
    assert chart("loss", [Line(label="loss", points=sorted((x, 1.0) for x in found.values()))]) is not None
