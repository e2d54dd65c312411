"""What a command prints that runs beside this screen."""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import RichLog, Static

from cld_core.texts import printable

from .fitting import cut
from .keys import key_line


class OutputScreen(Screen[None]):
    """The lines of one command; leaving it does not end the command."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "leave", show=False)]

    def __init__(self, what: str, lines: Sequence[str]) -> None:
        super().__init__()
        self.what, self._first = what, list(lines)

    def compose(self) -> ComposeResult:
        yield Static(id="log-title")
        yield RichLog(id="log", wrap=True, min_width=1, highlight=False, markup=False)
        yield Static(id="log-keys")

    def on_mount(self) -> None:
        for line in self._first:
            self.add(line)
        width = max(self.app.size.width, 20)
        self.query_one("#log-title", Static).update(Text(cut(self.what, width), "bold"))
        self.query_one("#log-keys", Static).update(key_line([], [("esc", "back; it goes on")], width))
        self.query_one(RichLog).focus()

    def add(self, line: str) -> None:
        """Show one more line."""
        self.query_one(RichLog).write(Text(printable(line)))

    def action_leave(self) -> None:
        self.dismiss(None)
