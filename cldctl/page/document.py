"""A page as one self-contained file: texts, tables, charts and pictures under headings.

Templates make the parts. Charts are SVG and take their colours from the style sheet.
"""

import base64
import contextlib
import io
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cld_core.files import by_age, read_bytes
from cld_core.run import RunFolder
from cld_core.sanitize import local_time, printable
from cld_core.version import __version__
from cldctl.evals.results import set_logarithmic
from cldctl.show.console import STYLES

from .curves import Points, is_inside, parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG = b"\x89PNG\r\n\x1a\n"
# The number of pictures of a run on a page, and the bytes of the largest.
_NEWEST = 6
_PICTURE_BYTES = 16 * 2**20
# A picture of fewer columns is enlarged without smoothing.
_SMALL = 300
# Of a curve: the points that are drawn, the means of its smoothed line, and the number of points
# from which they are not marked one by one.
_POINTS = 400
_MEANS = 50
_FEWEST = 24
# The share of values, at either end, that may be outside of the frame.
_OUTLIERS = 0.01
# The size of a chart in inches, and the frame within it as shares. Beside the frame, a number of
# eight characters fits; a longer one reaches into the margin of the page.
_SIZE = (6.1, 3.05)
_FRAME = (0.18, 0.11, 0.793, 0.845)
# An ink stands for a colour of the style sheet by its number: the first of eight ordered colours,
# and the colour of texts.
_ORDERED = 20
_TEXT = "#000190"
_STYLE = Path(__file__).parent / "templates" / "chart.mplstyle"

# The templates of HTML escape the values that they show.
TEMPLATES = Environment(
    loader=PackageLoader(__package__),
    autoescape=lambda name: name is not None and name.endswith(".html"),
    undefined=StrictUndefined,
    finalize=lambda value: printable(value) if type(value) is str else value,
    trim_blocks=True,
    lstrip_blocks=True,
)


class PageSection(NamedTuple):
    """Parts under a heading, in a layout of the style sheet; without parts, it is left out."""

    title: str
    parts: Iterable[Markup]
    layout: str = "grid"


def render(title: str, pills: Iterable[tuple[str, str]], sections: Iterable[PageSection]) -> str:
    """A page as text. Texts are escaped, and lose their control characters.

    Args:
        pills: words beside the title, with their colours.
    """
    filled = [section._replace(parts=[*filter(None, section.parts)]) for section in sections]
    page = TEMPLATES.get_template("page.html").render(
        title=title,
        generator=f"cldctl {__version__}",
        pills=pills,
        sections=filled,
        written=local_time(time.time()),
    )
    return f"{page}\n"


def part(kind: str, **values: Any) -> Markup:
    """A part of a page, made of ``values`` by the macro ``kind`` in `parts.html`."""
    return Markup(getattr(TEMPLATES.get_template("parts.html").module, kind)(**values))


def text(content: str, style: str = "soft") -> Markup:
    """A paragraph in a class of the style sheet; empty without content."""
    return part("text", content=content, style=style) if content else Markup()


def table(caption: str, columns: Mapping[str, Sequence[object]]) -> Markup:
    """Columns of cells by their headings; the first one names the rows. Empty without a row."""
    texts = []
    right = []
    for cells in columns.values():
        texts.append([cell if isinstance(cell, Markup) else str(cell) for cell in cells])
        right.append(all(re.match(r"-|\d(?!.*:)", text) for text in texts[-1]))
    rows = list(zip(*texts, strict=True))
    if not rows:
        return Markup()
    return part("table", caption=caption, headings=columns, rows=rows, right=right)


def code(command: str) -> Markup:
    """A command, for the inside of a text."""
    return Markup("<code>{}</code>").format(printable(command))


def colour_of(state: str) -> str:
    """The class of the style sheet with the colour of a state, the same as on terminals."""
    return STYLES.get(state, "dim").rpartition(" ")[2]


def chart(
    title: str,
    lines: Mapping[str, Points],
    *,
    truth: float | None = None,
    is_ordered: bool = False,
) -> Markup:
    """Lines over common axes, logarithmic where a linear one would flatten them; empty without a
    point.

    A line of many points is smoothed. If there is a single line, its points are drawn behind it.

    Args:
        lines: points by label, ascending in x; of results, each with its standard error, and these
            are not smoothed. A line without points only keeps its colour.
        truth: the true entropy, a level line.
        is_ordered: the colours are to show the order of the lines.
    """
    if not any(lines.values()):
        return Markup()
    from matplotlib import rcParams, style
    from matplotlib.figure import Figure

    with style.context(_STYLE):
        figure = Figure(figsize=_SIZE)
        axes: Any = figure.add_axes(_FRAME)
        inks = rcParams["axes.prop_cycle"].by_key()["color"]
        if is_ordered:
            last = max(len(lines) - 1, 1)
            inks = [f"#0001{_ORDERED + round(7 * index / last)}" for index in range(len(lines))]
        colours = {
            label: ink for label, ink in zip(lines, cycle(inks), strict=False) if lines[label]
        }
        is_smoothed = False
        for label, colour in colours.items():
            points = lines[label]
            means = smoothed(points)
            marker = {"marker": "o", "markersize": 4} if len(means) < _FEWEST else {}
            axes.errorbar(*zip(*means, strict=True), capsize=3, color=colour, **marker)
            is_smoothed |= means is not points
            if len(colours) == 1 and is_smoothed:
                thinned = points[:: -(-len(points) // _POINTS)]
                axes.plot(*zip(*thinned, strict=True), color=colour, alpha=0.35, linewidth=0.8)
        values = [value for points in lines.values() for _, value, *_ in points]
        if truth is not None:
            colours["true entropy"] = _TEXT
            axes.axhline(truth, color=_TEXT)
            values.append(truth)
        _set_axes(axes, sorted(values))
        scale = ", smoothed" if is_smoothed and len(lines) > 1 else ""
        scale += ", logarithmic" if axes.get_yscale() == "log" else ""
        entries = [entry for entry in colours.items() if entry[0] not in ("", title)]
        return _svg(f"{title}{scale}", figure, entries)


def drawing(title: str, draw: "Callable[[], Figure]") -> Markup:
    """The figure that ``draw`` makes, in the colours of the style sheet."""
    from matplotlib import style

    with style.context(_STYLE):
        return _svg(title, draw())


def _svg(title: str, figure: "Figure", entries: Sequence[tuple[str, str]] = ()) -> Markup:
    """A figure as a part of the page; ``entries``: the labels of its legend, with their inks."""
    out = io.StringIO()
    about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=about)
    # Without the head that only a separate file needs, and without invisible digits.
    svg = re.sub(r'(?s:\A.*(?=<svg))| id="[a-z]+[a-z0-9]*_\d+"', "", out.getvalue())
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), svg)
    html = part("chart", title=title, svg=Markup(printable(svg)), entries=entries)
    return Markup(re.sub(r"#0001(\d\d)", lambda ink: f"var(--c{int(ink[1])})", html))


def smoothed(points: Points) -> Points:
    """Means of consecutive points; a short curve, or one with errors, is returned unchanged."""
    if len(points) <= _MEANS or len(points[0]) > 2:
        return points
    means = []
    for group in parts(points, _MEANS):
        middle = group[len(group) // 2]
        means.append((middle[0], fmean(value for _, value in group)))
    return means


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether a linear axis would flatten sorted positive values.

    They span two powers of ten, or a few high ones take most of the axis. The lowest tenth does not
    count: a learning rate falls to almost zero at its end.
    """
    low = values[0]
    high = values[-1]
    if low <= 0:
        return False
    bulk = values[int(0.95 * len(values))] - low
    has_few_high = high > 2 * low and high - low > 4 * bulk
    return has_few_high or high > 100 * values[len(values) // 10]


def _set_axes(axes: Any, values: Sequence[float]) -> None:
    """Scale the axes of a chart of sorted values."""
    from matplotlib.ticker import EngFormatter

    beyond = int(_OUTLIERS * len(values))
    values = values[beyond : len(values) - beyond]
    if is_logarithmic(values):
        set_logarithmic(axes)
    elif beyond and values[0] < values[-1]:
        margin = 0.05 * (values[-1] - values[0])
        axes.set_ylim(values[0] - margin, values[-1] + margin)
    axes.yaxis.set_major_formatter("{x:.4g}")
    axes.locator_params("x", nbins=5, integer=True)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def gallery(run: RunFolder, *, follow: bool, most: int = _NEWEST) -> list[Markup]:
    """The pictures of a run, the newest samples first, and a line that counts the others.

    Args:
        follow: also read folders that links lead out of the run to.
        most: the number of pictures.
    """
    files = [*by_age(run.evals.glob("*/samples.png")), *by_age(run.samples.glob("*.png"))]
    inside = [file for file in reversed(files) if is_inside(run, file.parent, follow=follow)]
    by_content: dict[bytes | Path, Markup] = {}
    for file in inside[:most]:
        content = png(file)
        # Evaluations with the same sampler have equal pictures.
        by_content.setdefault(content or file, _picture(run, file, content))
    pictures = list(by_content.values())
    if (more := len(inside) - most) > 0:
        pictures.append(text(f"{more} older ones are in the folder of the run."))
    return pictures


def png(file: Path) -> bytes:
    """The content of a PNG file; empty if it is another file, too large, or cannot be read."""
    with contextlib.suppress(OSError):
        if (content := read_bytes(file, limit=_PICTURE_BYTES)).startswith(PNG):
            return content
    return b""


def _picture(run: RunFolder, file: Path, content: bytes) -> Markup:
    """A picture with its description, or its file name, as caption; a page contains PNGs only."""
    from PIL import Image

    name = str(file.relative_to(run.path))
    if not content:
        return text(f"{name}: not a picture")
    title = ""
    # A damaged file may make the decoder raise anything.
    with contextlib.suppress(Exception), Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        title = str(image.info.get("Description", ""))
    # The part of the description after the name of the run or recipe.
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
