"""Charts as SVG that takes its colours from the page, and pictures of samples."""

import base64
import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from cld_core.run import RunFolder
from cld_core.small_files import by_age, read_bytes
from cld_core.texts import printable

from .curves import Points, is_inside
from .document import part, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG = b"\x89PNG\r\n\x1a\n"
# The pictures of a run that are shown, and the bytes of one.
_NEWEST, _PICTURE_BYTES = 6, 16 * 2**20
# A narrower picture is one of pixels that people want to tell apart.
_SMALL = 300
# Points of a drawn line, the fewest of a curve that is smoothed, and the share of them in a mean.
_POINTS, _FEWEST, _WINDOW = 400, 24, 0.04
# The share of values, at either end, that may be outside of the frame.
_OUTLIERS = 0.01
# The size of a chart, and how far its frame is from its left, lower, right and upper edge.
_WIDTH, _HEIGHT, _FRAME = 440, 220, (46, 24, 12, 10)
# Characters below an axis.
_CHARACTERS = 60
# How many colours the style sheet has for unordered curves, the number of the first of eight ordered ones, and that of
# a line which is not measured, such as a true value.
_COLOURS, _ORDERED, SOFT = 12, 20, 90


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points of one curve, ascending in x.

    Attributes:
        colour: its number in the style sheet.
        errors: the standard error of each point, as far as it is known.
        is_faint: it is the background of another line.
        is_dashed: another line has the same colour.
    """

    label: str
    points: Points
    colour: int = 0
    errors: Sequence[float | None] = ()
    is_faint: bool = False
    is_dashed: bool = False


def unlike(place: int) -> dict[str, Any]:
    """The colour and the style of a line that is the n-th of a chart, counted from 0."""
    return {"colour": place % _COLOURS, "is_dashed": place // _COLOURS % 2 == 1}


def curve(title: str, points: Points) -> Markup:
    """A curve against the step: its running mean over the points; of few points, these alone."""
    behind = [Line(label=title, points=points, is_faint=True)] if len(points) >= _FEWEST else []
    return chart(title, [*behind, Line(label=title, points=smoothed(points))])


def overlay(title: str, curves: Mapping[str, Points], *, is_ordered: bool = False) -> Markup:
    """The running means of several curves; ``is_ordered`` if their colours are to show their order."""
    step = 7 / max(len(curves) - 1, 1)
    styles = [
        {"colour": _ORDERED + round(step * place)} if is_ordered else unlike(place) for place in range(len(curves))
    ]
    named = zip(curves.items(), styles, strict=True)
    return chart(title, [Line(label=label, points=smoothed(it), **style) for (label, it), style in named])


def chart(title: str, lines: Sequence[Line], names: Sequence[str] = ()) -> Markup:
    """All lines over common axes, logarithmic where a linear one would flatten them; empty without a point.

    Args:
        names: what stands at x = 0, 1, 2, ... instead of numbers.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_settings()):
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72))
        left, bottom, right, top = _FRAME
        axes = figure.add_axes(
            (left / _WIDTH, bottom / _HEIGHT, 1 - (left + right) / _WIDTH, 1 - (bottom + top) / _HEIGHT)
        )
        for line in lines:
            _draw(axes, line)
        values = sorted(value for line in lines for _, value in line.points)
        beyond = int(_OUTLIERS * len(values))
        values = values[beyond : len(values) - beyond]
        if is_logarithmic(values):
            axes.set_yscale("log")
        elif beyond and values[0] < values[-1]:
            margin = 0.05 * (values[-1] - values[0])
            axes.set_ylim(values[0] - margin, values[-1] + margin)
        _set_ticks(axes, names)
        svg = _svg(figure)
    entries = [(line.label, f"c{line.colour}") for line in lines if line.label not in ("", title)]
    scale = ", logarithmic" if axes.get_yscale() == "log" else ""
    return part("chart", title=f"{title}{scale}", svg=svg, entries=entries)


def smoothed(points: Points) -> Points:
    """Means over windows that are centred on each point; a short curve as it is."""
    if len(points) < _FEWEST:
        return points
    half = max(1, round(_WINDOW * len(points) / 2))
    # Sums of differences from one value: a curve with a large offset keeps its digits.
    level = points[0][1]
    sums = [0.0, *accumulate(value - level for _, value in points)]
    means = []
    for place, (step, _) in enumerate(points):
        first, last = max(place - half, 0), min(place + half + 1, len(points))
        means.append((step, level + (sums[last] - sums[first]) / (last - first)))
    return means


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether sorted positive values span two powers of ten, or a few of them take most of a linear axis."""
    low, high, count = values[0], values[-1], len(values)
    bulk = values[int(0.95 * count)] - values[int(0.05 * count)]
    return low > 0 and (high > 100 * low or (high > 2 * low and high - low > 4 * bulk))


def _settings() -> Any:
    """Those of matplotlib: text as text, the same output for the same values, and colours of the page."""
    text, grid = _ink(90), _ink(91)
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "cldctl",
        # Names of others are no formulas.
        "text.parse_math": False,
        "text.usetex": False,
        "font.size": 12,
        **{f"axes.spines.{side}": False for side in ("left", "right", "top")},
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.edgecolor": grid,
        "grid.color": grid,
        **{f"{axis}tick.{name}": value for axis in "xy" for name, value in (("color", text), ("major.size", 0))},
        "ytick.minor.size": 0,
    }


def _draw(axes: Any, line: Line) -> None:
    every = -(-len(line.points) // _POINTS)
    # The last point is one of those that are drawn.
    steps, values = zip(*line.points[(len(line.points) - 1) % every :: every], strict=True)
    style: dict[str, Any] = {"color": _ink(line.colour), "linestyle": "--" if line.is_dashed else "-"}
    if line.is_faint:
        style |= {"alpha": 0.35, "linewidth": 0.8}
    elif len(steps) < _FEWEST:
        style |= {"marker": "o", "markersize": 4}
    if any(line.errors):
        axes.errorbar(steps, values, [error or 0.0 for error in line.errors], capsize=3, **style)
    else:
        axes.plot(steps, values, **style)


def _set_ticks(axes: Any, names: Sequence[str]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        subs = (1, 1.5, 2, 3, 5) if high < 10 * low else (1, 2, 5) if high < 100 * low else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.4g}"))
    if names:
        every = -(-sum(map(len, names)) // _CHARACTERS)
        axes.set_xticks(range(0, len(names), every), labels=names[::every])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _ink(number: int) -> str:
    """A colour that stands for one of the style sheet until the chart is drawn."""
    return f"#0000{number + 1:02d}"


def _svg(figure: "Figure") -> Markup:
    """A figure for the inside of a page, without what is only of use in a file of its own."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    drawn = out.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    drawn = re.sub(r' id="[a-z]+[a-z0-9]*_\d+"| (?:width|height)="[\d.]+pt"', "", drawn)
    drawn = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), drawn)
    drawn = re.sub(r"#0000(\d\d)", lambda found: f"var(--c{int(found[1]) - 1})", drawn)
    return Markup(printable(drawn))


def gallery(run: RunFolder, *, follow: bool) -> list[Markup]:
    """The pictures of a run, the newest samples first, and how many more there are.

    Args:
        follow: also read folders that links lead out of the run to.
    """
    files = [file for pattern in ("evals/*/samples.png", "samples/*.png") for file in by_age(run.path.glob(pattern))]
    found: dict[bytes | Path, Markup] = {}
    inside = [file for file in reversed(files) if is_inside(run, file.parent, follow=follow)]
    for file in inside[:_NEWEST]:
        content = b""
        with contextlib.suppress(OSError):
            content = read_bytes(file, limit=_PICTURE_BYTES)
        # Evaluations of one sampler draw the same.
        found.setdefault(content or file, _picture(run, file, content))
    more = len(inside) - _NEWEST
    return [*found.values(), *([text(f"{more} older ones are in the folder of the run.")] if more > 0 else [])]


def _picture(run: RunFolder, file: Path, content: bytes) -> Markup:
    """A picture under the name of its run, with what it says of itself; nothing but a PNG gets into a page."""
    from PIL import Image

    name = file.stem if file.parent == run.samples else f"evaluation {file.parent.name}"
    if not content.startswith(PNG):
        return text(f"{name}: not a picture")
    title, width = "", 0
    # Whatever a damaged file makes the decoder raise.
    with contextlib.suppress(Exception), Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        title, width = str(image.info.get("Description", "")), image.width
    # It begins with the name of the run, or of its recipe.
    about = re.search(r"step [\d,]+.*", title)
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    caption = f"{run.name}, {about[0] if about else name}"
    return part("picture", caption=caption, source=source, file=file.name, is_small=0 < width < _SMALL)
