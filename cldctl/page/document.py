"""A page as one file, which asks nobody for anything: texts, tables, charts and pictures under
headings.

Templates make the parts. Charts are SVG that takes its colours from the style sheet.
"""

import base64
import contextlib
import io
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cld_core.files import by_age, read_bytes
from cld_core.run import RunFolder
from cld_core.sanitize import local_time, printable
from cldctl.show.tables import STYLES

from .curves import Points, is_inside, parts

PNG = b"\x89PNG\r\n\x1a\n"
# The pictures of a run that are shown, and the bytes of one.
_NEWEST, _PICTURE_BYTES = 6, 16 * 2**20
# A narrower picture is one of pixels that people want to tell apart.
_SMALL = 300
# Points that are drawn of a curve, means of its smoothed line, and the fewest points that are not
# marked one by one.
_POINTS, _MEANS, _FEWEST = 400, 50, 24
# The share of values, at either end, that may be outside of the frame.
_OUTLIERS = 0.01
# Inches; the frame within a chart, whose labels are larger on a small screen; and characters below
# an axis.
_SIZE, _FRAME, _CHARACTERS = (6.1, 3.05), (0.105, 0.11, 0.868, 0.845), 60
# The width of a character beside an axis on a small screen, as a share of the width of a chart.
_CHARACTER = 0.0225
# An ink is the number of a colour in the style sheet: that of the first of eight ordered ones, and
# the ink of texts.
_ORDERED, _TEXT = 20, "#000190"


# Those of HTML escape what they show.
TEMPLATES = Environment(
    loader=PackageLoader(__package__),
    autoescape=lambda name: name is not None and name.endswith(".html"),
    undefined=StrictUndefined,
    finalize=lambda value: printable(value) if type(value) is str else value,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Section(NamedTuple):
    """Parts under a heading, in a layout of the style sheet; without parts, it is left out."""

    title: str
    parts: Iterable[Markup]
    layout: str = "grid"


def render(
    title: str, mark: str, pills: Iterable[tuple[str, str]], sections: Iterable[Section]
) -> str:
    """A page as text. Every text is escaped, and loses its control characters.

    Args:
        mark: what made it.
        pills: words beside the title, with their colours.
    """
    found = [Section(name, list(filter(None, parts)), layout) for name, parts, layout in sections]
    page = TEMPLATES.get_template("page.html")
    return (
        page.render(
            title=title, mark=mark, pills=pills, sections=found, made=local_time(time.time())
        )
        + "\n"
    )


def part(kind: str, **values: Any) -> Markup:
    """A part of a page: what the macro of this name in `parts.html` makes of ``values``."""
    return Markup(getattr(TEMPLATES.get_template("parts.html").module, kind)(**values))


def text(content: str, style: str = "soft") -> Markup:
    """A paragraph; ``style`` is what the style sheet calls it. Empty without content."""
    return part("text", content=content, style=style) if content else Markup()


def table(caption: str, columns: Mapping[str, Sequence[object]]) -> Markup:
    """Columns of cells by their headings; the first one names the rows. Empty without a row."""
    rows = list(zip(*columns.values(), strict=True))
    right = [
        all(re.match(r"-|\d(?!.*:)", str(cell)) for cell in cells) for cells in columns.values()
    ]
    return (
        part("table", caption=caption, headings=columns, rows=rows, right=right)
        if rows
        else Markup()
    )


def code(command: str) -> Markup:
    """A command, for the inside of a text."""
    return Markup("<code>{}</code>").format(printable(command))


def colour_of(state: str) -> str:
    """What the style sheet calls the colour of a state, which is that of terminals."""
    return STYLES.get(state, "dim").rpartition(" ")[2]


def chart(
    title: str,
    lines: Mapping[str, Points],
    *,
    truth: float | None = None,
    names: Sequence[str] = (),
    is_ordered: bool = False,
) -> Markup:
    """Lines over common axes, logarithmic where a linear one would flatten them; empty without a
    point.

    A line of many points is smoothed; if there is only one, its points are behind it.

    Args:
        lines: points by label, ascending in x; of results, each with its standard error, and these
            are not smoothed. One without points only keeps its colour.
        truth: the true entropy, a level line.
        names: what stands at x = 0, 1, 2, ... instead of numbers.
        is_ordered: the colours are to show the order of the lines.
    """
    if not any(lines.values()):
        return Markup()
    from matplotlib import rcParams, style
    from matplotlib.figure import Figure

    with style.context(Path(__file__).parent / "templates" / "chart.mplstyle"):
        figure = Figure(figsize=_SIZE)
        axes: Any = figure.add_axes(_FRAME)
        inks = rcParams["axes.prop_cycle"].by_key()["color"]
        if is_ordered:
            last = max(len(lines) - 1, 1)
            inks = [f"#0001{_ORDERED + round(7 * place / last)}" for place in range(len(lines))]
        colours = {
            label: inks[place % len(inks)] for place, label in enumerate(lines) if lines[label]
        }
        is_smoothed = False
        for label, colour in colours.items():
            points, means = lines[label], smoothed(lines[label])
            marker = {"marker": "o", "markersize": 4} if len(means) < _FEWEST else {}
            axes.errorbar(*zip(*means, strict=True), capsize=3, color=colour, **marker)
            is_smoothed |= means is not points
            if len(colours) == 1 and is_smoothed:
                shown = points[:: -(-len(points) // _POINTS)]
                axes.plot(*zip(*shown, strict=True), color=colour, alpha=0.35, linewidth=0.8)
        values = [value for points in lines.values() for _, value, *_ in points]
        if truth is not None:
            colours["true entropy"] = _TEXT
            axes.axhline(truth, color=_TEXT)
            values.append(truth)
        _set_axes(axes, sorted(values), names)
        out = io.StringIO()
        about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=about)
    # What is only of use in a file of its own goes, and digits that nobody sees.
    svg = re.sub(r'(?s:\A.*(?=<svg))| id="[a-z]+[a-z0-9]*_\d+"', "", out.getvalue())
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), svg)
    scale = ", smoothed" if is_smoothed and len(lines) > 1 else ""
    scale += ", logarithmic" if axes.get_yscale() == "log" else ""
    entries = [(label, colour) for label, colour in colours.items() if label not in ("", title)]
    drawn = part("chart", title=f"{title}{scale}", svg=Markup(printable(svg)), entries=entries)
    return Markup(re.sub(r"#0001(\d\d)", lambda ink: f"var(--c{int(ink[1])})", drawn))


def smoothed(points: Points) -> Points:
    """Means of points that follow each other; a short curve, or one with errors, as it is."""
    if len(points) <= _MEANS or len(points[0]) > 2:
        return points
    return [
        (it[len(it) // 2][0], sum(value for _, value in it) / len(it))
        for it in parts(points, _MEANS)
    ]


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether sorted positive values span two powers of ten, or a few high ones take most of a
    linear axis.

    What falls to zero at its end, as a learning rate does, spans more, and is not flattened by
    that.
    """
    low, high, count = values[0], values[-1], len(values)
    bulk = values[int(0.95 * count)] - low
    return low > 0 and (
        high > 100 * values[count // 10] or (high > 2 * low and high - low > 4 * bulk)
    )


def _set_axes(axes: Any, values: Sequence[float], names: Sequence[str]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator

    beyond = int(_OUTLIERS * len(values))
    values = values[beyond : len(values) - beyond]
    if is_logarithmic(values):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        subs = (1, 1.5, 2, 3, 5) if high < 10 * low else (1, 2, 5) if high < 100 * low else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_minor_formatter("")
    elif beyond and values[0] < values[-1]:
        margin = 0.05 * (values[-1] - values[0])
        axes.set_ylim(values[0] - margin, values[-1] + margin)
    axes.yaxis.set_major_formatter("{x:.4g}")
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    longest = max(map(len, axes.yaxis.get_major_formatter().format_ticks(ticks)), default=0)
    left, bottom, width, height = _FRAME
    more = max(longest * _CHARACTER - left, 0.0)
    axes.set_position((left + more, bottom, width - more, height))
    if names:
        every = -(-sum(map(len, names)) // _CHARACTERS)
        axes.set_xticks(range(0, len(names), every), labels=names[::every])
    else:
        axes.locator_params("x", nbins=5, integer=True)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def gallery(run: RunFolder, *, follow: bool, most: int = _NEWEST) -> list[Markup]:
    """The pictures of a run, the newest samples first, and how many more there are.

    Args:
        follow: also read folders that links lead out of the run to.
        most: how many are shown.
    """
    files = [
        file
        for pattern in ("evals/*/samples.png", "samples/*.png")
        for file in by_age(run.path.glob(pattern))
    ]
    inside = [file for file in reversed(files) if is_inside(run, file.parent, follow=follow)]
    found: dict[bytes | Path, Markup] = {}
    for file in inside[:most]:
        content = png(file)
        # Evaluations of one sampler draw the same.
        found.setdefault(content or file, _picture(run, file, content))
    shown = list(found.values())
    if (more := len(inside) - most) > 0:
        shown.append(text(f"{more} older ones are in the folder of the run."))
    return shown


def png(file: Path) -> bytes:
    """The content of a picture; empty if it is none, too large, or cannot be read."""
    with contextlib.suppress(OSError):
        if (content := read_bytes(file, limit=_PICTURE_BYTES)).startswith(PNG):
            return content
    return b""


def _picture(run: RunFolder, file: Path, content: bytes) -> Markup:
    """A picture under its run and what it says of itself, or its file; nothing but a PNG gets into
    a page."""
    from PIL import Image

    name, title = str(file.relative_to(run.path)), ""
    if not content:
        return text(f"{name}: not a picture")
    # Whatever a damaged file makes the decoder raise.
    with contextlib.suppress(Exception), Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        title = str(image.info.get("Description", ""))
    # It begins with the name of the run, or of its recipe.
    about = re.search(r"step [\d,]+.*", title)
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    # The width is the first number of a PNG.
    is_small = int.from_bytes(content[16:20]) < _SMALL
    return part(
        "picture",
        caption=f"{run.name}, {about[0] if about else name}",
        source=source,
        is_small=is_small,
    )
