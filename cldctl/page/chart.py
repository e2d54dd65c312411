"""Charts as numbers that the template `chart.html` turns into inline SVG. Lengths are in units of its view box."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from . import series
from .axis import Axis, compact, fitting, span, ticks
from .series import Point

# Lines of at most so many points show each of them.
_DOTS = 40
# A chart, and the one at the top, whose labels are larger in its units because a phone shrinks it more.
_SIZE, _LARGE = (420.0, 210.0), (520.0, 260.0)
# Of the labels at the axes: the width of a character, and the space around them.
_CHARACTER, _SPACE = 7.6, 8.0
_TOP, _RIGHT, _BOTTOM = 10.0, 20.0, 26.0
# Characters of a number between two powers of ten.
_BETWEEN_POWERS = 5
# A longer name of a tick is cut; the table and the pointer show all of it.
_LONGEST_NAME = 14
# Ratio of the largest to the smallest value from which an axis of named values is logarithmic.
_LOG_FROM = 5.0


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points of one curve, ascending in x.

    Attributes:
        errors: standard errors, by the place of the point.
        faint: it is the background of another line, which tells its values.
        series: its colour, from 0.
    """

    label: str
    points: Sequence[Point]
    errors: Mapping[int, float] = field(default_factory=dict)
    faint: bool = False
    series: int = 0


@dataclass(frozen=True, kw_only=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A line within the frame.

    Attributes:
        path: of the polyline; empty for one point.
        bars: x, upper and lower end of each error bar.
        data: "x,y" or "x,y,error" of each point, for the script.
    """

    line: Line
    path: str
    dots: list[Point]
    bars: list[tuple[float, float, float]]
    data: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What the template needs.

    Attributes:
        frame: left, top, right and bottom of the plotting area.
        bounds: x at its left and right edge, y at its lower and upper one.
        axis: of y.
        names: of named positions, the name by x.
        about: what it shows, in words.
    """

    title: str
    x_label: str
    width: float
    height: float
    frame: tuple[float, float, float, float]
    bounds: tuple[float, float, float, float]
    axis: Axis
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Drawn]
    names: dict[str, str]
    about: str

    @property
    def named(self) -> list[Line]:
        """The lines that are not the background of another one."""
        return [drawn.line for drawn in self.lines if not drawn.line.faint]

    @property
    def legend(self) -> list[Line]:
        """The lines that need a legend: none if there is only one, which the title names."""
        return self.named if len(self.named) > 1 else []


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str = "step",
    names: Sequence[tuple[float, str]] = (),
    large: bool = False,
    may_be_log: bool = False,
) -> Chart | None:
    """A chart of all lines over common axes; None without a finite value. Outliers are clipped to the frame.

    Args:
        names: positions on the axis of x that have names instead of numbers.
        may_be_log: whether the axis of y is logarithmic if values span over two powers of ten.
        large: it is the one at the top of a page.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    size, character = (_LARGE, _CHARACTER * 1.25) if large else (_SIZE, _CHARACTER)
    left_x, right_x = span([x for line in lines for x, _ in line.points])
    values = [[value for value in _extents(line) if abs(value) < series.LARGEST] for line in lines]
    if not any(values):
        return None
    axis = fitting(values, may_be_log=may_be_log)
    y_values = axis.ticks()
    labels = [compact(value) for value in y_values]
    # Between powers of ten, a part that somebody looks at has longer numbers.
    least = 1 if axis.kind == "linear" else _BETWEEN_POWERS
    left = 2 * _SPACE + character * max([least, *map(len, labels)])
    frame = (left, _TOP, size[0] - _RIGHT, size[1] - _BOTTOM)
    to = _Scale(frame, (left_x, right_x), axis)
    shown = names or [(value, compact(value)) for value in _values(lines, left_x, right_x)]
    return Chart(
        title=title,
        x_label=x_label,
        width=size[0],
        height=size[1],
        frame=frame,
        bounds=(left_x, right_x, axis.low, axis.high),
        axis=axis,
        x_ticks=list(_apart([Tick(at=to.x(x), label=_cut(name)) for x, name in shown], size[0], character)),
        y_ticks=[Tick(at=to.y(y), label=label) for y, label in zip(y_values, labels, strict=True)],
        lines=[_drawn(line, to) for line in lines],
        names={f"{x:.9g}": name for x, name in names},
        about=_about(title, x_label, lines, axis),
    )


def curve(
    title: str,
    points: Sequence[tuple[float, float]],
    *,
    most: int = 400,
    large: bool = False,
    may_be_log: bool = False,
) -> Chart | None:
    """A curve against the step: the points in the background, and their running mean; short ones as they are."""
    clean = series.finite(points)
    raw, mean = series.thinned(clean, most), series.thinned(series.smoothed(clean), most)
    if not mean:
        lines = [Line(label=title, points=raw)]
    else:
        lines = [Line(label=title, points=raw, faint=True), Line(label=f"{title} (smoothed)", points=mean)]
    return chart(title, lines, large=large, may_be_log=may_be_log)


def positions(values: Sequence[str]) -> dict[str, float]:
    """Where each value of an axis lies: by its size if all are numbers, else one after the other."""
    try:
        numbers = {value: float(value) for value in values}
    except ValueError:
        numbers = {}
    if not numbers or not all(abs(number) < series.LARGEST for number in numbers.values()):
        return {value: float(place) for place, value in enumerate(values)}
    smallest, largest = min(numbers.values()), max(numbers.values())
    if smallest > 0 and largest >= _LOG_FROM * smallest:
        return {value: math.log10(number) for value, number in numbers.items()}
    return numbers


class _Scale:
    """From values to places in the view box."""

    def __init__(self, frame: tuple[float, float, float, float], ends: tuple[float, float], axis: Axis) -> None:
        self._frame, self._ends, self._axis = frame, ends, axis

    def x(self, value: float) -> float:
        left, _, right, _ = self._frame
        first, last = self._ends
        return left + (value - first) / (last - first) * (right - left)

    def y(self, value: float) -> float:
        _, top, _, bottom = self._frame
        return bottom - self._axis.share(value) * (bottom - top)


def _drawn(line: Line, to: _Scale) -> Drawn:
    places = [(to.x(x), to.y(y)) for x, y in line.points]
    bars = [(to.x(x), to.y(y + error), to.y(y - error)) for x, y, error in _with_errors(line)]
    data = " ".join(
        f"{x:.9g},{y:.6g}" + (f",{line.errors[place]:.3g}" if place in line.errors else "")
        for place, (x, y) in enumerate(line.points)
    )
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places) if len(places) > 1 else ""
    return Drawn(line=line, path=path, dots=places if len(places) <= _DOTS else [], bars=bars, data=data)


def _with_errors(line: Line) -> Iterator[tuple[float, float, float]]:
    return ((*line.points[place], error) for place, error in line.errors.items())


def _extents(line: Line) -> Iterator[float]:
    yield from (y for _, y in line.points)
    for _, y, error in _with_errors(line):
        yield from (y - error, y + error)


def _values(lines: Sequence[Line], first: float, last: float) -> list[float]:
    """Where the axis of x has ticks."""
    only = {x for line in lines for x, _ in line.points}
    return list(only) if len(only) == 1 else ticks(first, last, 5)


def _apart(found: Sequence[Tick], width: float, character: float) -> Iterator[Tick]:
    """The ticks whose labels stay inside the view box and do not overlap."""
    end = 0.0
    for tick in found:
        half = character * len(tick.label) / 2
        at = min(max(tick.at, half), width - half)
        if at - half >= end:
            yield Tick(at=at, label=tick.label)
            end = at + half + _SPACE


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _about(title: str, x_label: str, lines: Sequence[Line], axis: Axis) -> str:
    count = max(len(line.points) for line in lines)
    told = [f"{line.label} ends at {line.points[-1][1]:.4g}" for line in lines if not line.faint][:8]
    scale = "" if axis.kind == "linear" else ", on a logarithmic axis"
    return f"{title} against {x_label}{scale}: {count} point{'s' * (count != 1)}; {'; '.join(told)}"
