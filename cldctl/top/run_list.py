"""The list of runs: it draws the lines that are visible, and knows which one is selected."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from cldctl.runs.status import RunStatus

from .arrange import Line, RunLine
from .lines import Layout, heading, layout, line_text

_CHOSEN = Style(bold=True, bgcolor="#0f3a5f")


class RunList(Widget, can_focus=True):
    """Lines below a heading that stays; the selected line is always visible.

    Args:
        losses: the losses of a run, by its folder.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "move(-1000000000)", show=False),
        Binding("end,G", "move(1000000000)", show=False),
    ]

    class Changed(Message):
        """Another line is selected, or other lines are visible."""

    def __init__(self, losses: Callable[[Path], Sequence[float]], id: str) -> None:
        super().__init__(id=id)
        self._losses = losses
        self.lines: list[Line] = []
        self.cursor = 0
        self._top = 0
        self._empty = ""
        # Of these lines, by the width of the screen.
        self._shapes: dict[int, Layout] = {}

    @property
    def selected(self) -> Line | None:
        return self.lines[self.cursor] if self.lines else None

    @property
    def visible_rows(self) -> list[RunStatus]:
        shown = self.lines[self._top : self._top + self._room]
        return [line.row for line in shown if isinstance(line, RunLine)]

    def show(self, lines: Sequence[Line], empty: str) -> None:
        """Show other lines; the same run stays selected, or the one that takes its place.

        Args:
            empty: what is said if there are none.
        """
        before = self.selected
        self.lines, self._empty, self._shapes = list(lines), empty, {}
        if before is not None:
            places = {line.key: place for place, line in enumerate(self.lines)}
            self.cursor = places.get(before.key, min(self.cursor, max(len(self.lines) - 1, 0)))
        self._settle()

    def action_move(self, by: int) -> None:
        self.cursor = min(max(self.cursor + by, 0), max(len(self.lines) - 1, 0))
        self._settle()

    def action_page(self, pages: int) -> None:
        self.action_move(pages * max(self._room - 1, 1))

    def on_resize(self, event: Resize) -> None:
        self._settle()

    @property
    def _room(self) -> int:
        """Lines below the heading."""
        return max(self.size.height - 1, 1)

    def _settle(self) -> None:
        """Scroll as little as shows the selected line, and leave no empty lines below the last one."""
        self._top = min(max(self._top, self.cursor - self._room + 1), self.cursor)
        self._top = max(min(self._top, len(self.lines) - self._room), 0)
        self.refresh()
        self.post_message(self.Changed())

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        return self._strip(self._text(y, width), width)

    def _text(self, y: int, width: int) -> Text:
        if not self.lines:
            return Text(self._empty if y == 0 else "", "dim")
        shape = self._shape(width)
        if y == 0:
            return heading(shape)
        place = self._top + y - 1
        if place >= len(self.lines):
            return Text()
        line = self.lines[place]
        losses = self._losses(Path(line.row.path)) if isinstance(line, RunLine) else ()
        is_chosen = place == self.cursor
        text = line_text(line, shape, width, losses, is_chosen=is_chosen)
        if is_chosen:
            text.pad_right(max(width - text.cell_len, 0))
            text.stylize(_CHOSEN if self.has_focus else Style(bold=True))
        return text

    def _shape(self, width: int) -> Layout:
        # Of all runs and not of the visible ones alone: columns stay where they are when somebody scrolls.
        if width not in self._shapes:
            self._shapes = {width: layout([line.row for line in self.lines if isinstance(line, RunLine)], width)}
        return self._shapes[width]

    def _strip(self, text: Text, width: int) -> Strip:
        segments = [segment for segment in text.render(self.app.console) if segment.text != "\n"]
        return Strip(segments).apply_style(self.rich_style).adjust_cell_length(width, self.rich_style)
