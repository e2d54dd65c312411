"""Charts as numbers that the template `chart.html` turns into inline SVG. Lengths are in units of its view box."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from . import series
from .series import Point

# The share of the smallest, and of the largest, values that may be outside the frame.
_OUTLIERS = 0.01
# Lines of at most so many points show each of them.
_DOTS = 40
# A chart, and the one at the top, whose labels are larger in its units because a phone shrinks it more.
_SIZE, _LARGE = (420.0, 210.0), (520.0, 260.0)
# Of the labels at the axes: the width of a character, and the space around them.
_CHARACTER, _SPACE = 7.6, 8.0
_TOP, _RIGHT, _BOTTOM = 10.0, 20.0, 26.0
# A longer name of a tick is cut; the table and the pointer show all of it.
_LONGEST_NAME = 14
# A smaller difference is none: its share would underflow.
_LEAST = 1e-300
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
        bounds: x and y at its left, right, lower and upper edge.
        names: of named positions, the name by x.
        about: what it shows, in words.
    """

    title: str
    x_label: str
    width: float
    height: float
    frame: tuple[float, float, float, float]
    bounds: tuple[float, float, float, float]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Drawn]
    names: dict[str, str]
    about: str

    @property
    def legend(self) -> list[Line]:
        """The lines that need a legend: none if there is only one."""
        shown = [drawn.line for drawn in self.lines if not drawn.line.faint]
        return shown if len(shown) > 1 else []


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str = "step",
    names: Sequence[tuple[float, str]] = (),
    large: bool = False,
) -> Chart | None:
    """A chart of all lines over common axes; None without a finite value. Outliers are clipped to the frame.

    Args:
        names: positions on the axis of x that have names instead of numbers.
        large: it is the one at the top of a page.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    size, character = (_LARGE, _CHARACTER * 1.25) if large else (_SIZE, _CHARACTER)
    left_x, right_x = _span([x for line in lines for x, _ in line.points])
    values = [value for value in _extents(lines) if abs(value) < series.LARGEST]
    if not values:
        return None
    low, high = _range(values)
    y_values = ticks(low, high, 4)
    labels = [compact(value) for value in y_values]
    left = 2 * _SPACE + character * max(map(len, labels), default=1)
    frame = (left, _TOP, size[0] - _RIGHT, size[1] - _BOTTOM)
    to = _Scale(frame, (left_x, right_x, low, high))
    shown = names or [(value, compact(value)) for value in _values(lines, left_x, right_x)]
    return Chart(
        title=title,
        x_label=x_label,
        width=size[0],
        height=size[1],
        frame=frame,
        bounds=(left_x, right_x, low, high),
        x_ticks=list(_apart([Tick(at=to.x(x), label=_cut(name)) for x, name in shown], size[0], character)),
        y_ticks=[Tick(at=to.y(y), label=label) for y, label in zip(y_values, labels, strict=True)],
        lines=[_drawn(line, to) for line in lines],
        names={f"{x:.9g}": name for x, name in names},
        about=_about(title, x_label, lines),
    )


def curve(title: str, points: Sequence[tuple[float, float]], *, most: int = 400, large: bool = False) -> Chart | None:
    """A curve against the step: the points in the background, and their running mean; short ones as they are."""
    clean = series.finite(points)
    raw, mean = series.thinned(clean, most), series.thinned(series.smoothed(clean), most)
    if not mean:
        lines = [Line(label=title, points=raw)]
    else:
        lines = [Line(label=title, points=raw, faint=True), Line(label=f"{title}, smoothed", points=mean)]
    return chart(title, lines, large=large)


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


class _Scale:
    """From values to places in the view box."""

    def __init__(self, frame: tuple[float, float, float, float], bounds: tuple[float, float, float, float]) -> None:
        self._frame, self._bounds = frame, bounds

    def x(self, value: float) -> float:
        left, _, right, _ = self._frame
        first, last, *_ = self._bounds
        return left + (value - first) / (last - first) * (right - left)

    def y(self, value: float) -> float:
        _, top, _, bottom = self._frame
        *_, low, high = self._bounds
        return bottom - (min(max(value, low), high) - low) / (high - low) * (bottom - top)


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


def _extents(lines: Sequence[Line]) -> Iterator[float]:
    for line in lines:
        yield from (y for _, y in line.points)
        for _, y, error in _with_errors(line):
            yield from (y - error, y + error)


def _values(lines: Sequence[Line], first: float, last: float) -> list[float]:
    """Where the axis of x has ticks."""
    only = {x for line in lines for x, _ in line.points}
    return list(only) if len(only) == 1 else ticks(first, last, 5)


def _span(values: Sequence[float]) -> tuple[float, float]:
    first, last = min(values), max(values)
    largest = max(abs(first), abs(last))
    if last - first > max(1e-12 * largest, _LEAST):
        return first, last
    margin = max(0.5, 1e-3 * largest)
    return first - margin, last + margin


def _range(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    beyond = int(_OUTLIERS * len(ordered))
    low, high = ordered[beyond], ordered[-1 - beyond]
    # Values that differ by less than floats can tell apart are one.
    least = 1e-9 * max(abs(low), abs(high))
    margin = 0.05 * (high - low) if high - low > least else 0.1 * abs(high)
    margin = margin if margin > _LEAST else 1.0
    return low - margin, high + margin


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


def _about(title: str, x_label: str, lines: Sequence[Line]) -> str:
    count = max(len(line.points) for line in lines)
    told = [f"{line.label} ends at {line.points[-1][1]:.4g}" for line in lines if not line.faint][:8]
    return f"{title} against {x_label}: {count} point{'s' * (count != 1)}; {'; '.join(told)}"
