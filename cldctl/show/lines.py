"""A table of many rows, drawn in no time: a line each, in the look of `fitting.plain_table`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from cld_core.texts import printable

_GAP = "   "


@dataclass(frozen=True)
class Lines:
    """Texts in columns; none is folded or cut.

    Attributes:
        columns: the cells of each heading.
        widths: of the columns that are shown, by heading.
        right: headings of the columns of numbers.
    """

    columns: Mapping[str, Sequence[RenderableType]]
    widths: Mapping[str, int]
    right: Collection[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment("\n")
        yield from self._line([Text(heading, "bold") for heading in self.widths], console)
        yield Segment(f" {'─' * (sum(self.widths.values()) + len(_GAP) * (len(self.widths) - 1))} \n")
        for cells in zip(*(self.columns[heading] for heading in self.widths), strict=True):
            yield from self._line(cells, console)
        yield Segment("\n")

    def _line(self, cells: Sequence[RenderableType], console: Console) -> RenderResult:
        before = " "
        for (heading, width), cell in zip(self.widths.items(), cells, strict=True):
            text = printable(str(cell), keep="")
            text = text.rjust(width) if heading in self.right else text.ljust(width)
            style = console.get_style(cell.style) if isinstance(cell, Text) and cell.style else None
            if style is None or not console.is_terminal:
                before += text
            else:
                yield from (Segment(before), Segment(text, style))
                before = ""
            before += _GAP
        yield Segment(f"{before[: -len(_GAP)]} \n")
