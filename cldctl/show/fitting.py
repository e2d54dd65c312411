"""Tables that fit a terminal: names get shorter first, then the columns go that matter least."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from rich import box
from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .console import out
from .lines import Lines
from .wrap import Wrapped, shortened

# Cells of a bar.
BAR = 12
# More rows than this are drawn as lines: rich takes a millisecond for each.
MANY = 200
# Blanks between two columns of a table.
PADDING = 3
# Names are not shortened below this width while there are columns to leave out; nor, up to the second width, so far
# that two of them look the same.
_NAME, _DISTINCT = 16, 32
# A last resort, where even the columns that always stay are too wide.
_LEAST_NAME = 8
# At least so wide is a column of sentences.
_SENTENCE = 20


def plain_table(title: str | None = None, *, compact: bool = False) -> Table:
    """A table without a frame, which pipes well; ``compact``: without empty lines around it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=not compact)
    table.title, table.title_justify, table.title_style = title, "left", "bold"
    return table


def fitted(
    columns: Mapping[str, Sequence[RenderableType]],
    left_out: Sequence[str],
    right: Collection[str],
    *,
    names: str | None = None,
    wraps: str | None = None,
    title: str | None = None,
    compact: bool = False,
) -> RenderableType:
    """A table that is no wider than the terminal.

    Args:
        columns: the cells (texts or bars) of each heading.
        left_out: headings of columns that go if there is no room, the first of them first; before any of them, those
            of them that are empty.
        right: headings of the columns of numbers.
        names: heading of the column whose cells may be shortened, which comes before leaving out a column.
        wraps: heading of a column of sentences, which may take several lines.
        title: of the table.
        compact: without empty lines around it.
    """
    widths = {heading: max([len(heading), *map(_width, cells)]) for heading, cells in columns.items()}
    shown = list(columns)
    if sum(widths.values()) + PADDING * len(widths) > out.width:
        least = {} if names is None else {names: least_of(columns[names])}
        least |= {} if wraps is None else {wraps: _SENTENCE}
        shown = _chosen(columns, widths, least, left_out)
    if names is not None:
        room = out.width - sum(widths[it] for it in shown if it != names) - PADDING * len(shown)
        room += max(widths[wraps] - _SENTENCE, 0) if wraps is not None and wraps in shown else 0
        widths[names] = min(widths[names], max(room, _LEAST_NAME))
    cells = {heading: columns[heading] for heading in shown}
    if names is not None:
        cells[names] = [shortened(str(cell), widths[names]) for cell in columns[names]]
    if len(next(iter(cells.values()), ())) > MANY:
        return Lines(cells, {heading: widths[heading] for heading in shown}, right)
    table = plain_table(title, compact=compact)
    for heading in shown:
        is_number = heading in right
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=is_number)
    for row in zip(*cells.values(), strict=True):
        table.add_row(*(_cell(cell, heading in right) for heading, cell in zip(shown, row, strict=True)))
    return table


def _cell(cell: RenderableType, is_number: bool) -> RenderableType:
    if is_number:
        # Plain strings are searched for markup, which is slow for a thousand rows.
        return Text(cell) if isinstance(cell, str) else cell
    return Wrapped(cell) if isinstance(cell, str | Text) else cell


def _chosen(
    columns: Mapping[str, Sequence[RenderableType]],
    widths: Mapping[str, int],
    least: Mapping[str, int],
    left_out: Sequence[str],
) -> list[str]:
    """The headings for which there is room if names are as short and sentences as narrow as they may be."""
    shown = list(columns)
    empty = [heading for heading in left_out if all(str(cell) in ("-", "") for cell in columns.get(heading, ("x",)))]
    for heading in (*empty, *left_out):
        needed = sum(min(widths[it], least.get(it, widths[it])) for it in shown) + PADDING * len(shown)
        if needed > out.width and heading in shown:
            shown.remove(heading)
    return shown


def least_of(names: Iterable[object], least: int = _NAME) -> int:
    """The smallest width, from ``least`` to a bound, at which names that differ still look different."""
    texts = {str(name) for name in names}
    for width in range(least, _DISTINCT):
        if len({shortened(text, width) for text in texts}) == len(texts):
            return width
    return _DISTINCT


def _width(cell: RenderableType) -> int:
    return BAR if isinstance(cell, ProgressBar) else len(str(cell))
