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
    """The lines of one command; leaving it does not end the command.

    Args:
        what: what the command does.
        lines: those that it has printed, to which others append.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "leave", show=False)]

    def __init__(self, what: str, lines: Sequence[str]) -> None:
        super().__init__()
        self.what, self._lines = what, lines
        self._shown = 0

    def compose(self) -> ComposeResult:
        yield Static(id="log-title")
        yield RichLog(id="log", wrap=True, min_width=1, highlight=False, markup=False)
        yield Static(id="log-keys")

    def on_mount(self) -> None:
        self.go_on()
        width = max(self.app.size.width, 20)
        self.query_one("#log-title", Static).update(Text(cut(self.what, width), "bold"))
        self.query_one("#log-keys", Static).update(key_line([], [("esc", "back; it goes on")], width))
        self.query_one(RichLog).focus()

    def go_on(self) -> None:
        """Show the lines that are new."""
        # Before it is mounted, there is no place for them.
        for log in self.query(RichLog):
            for line in self._lines[self._shown :]:
                log.write(Text(printable(line)))
            self._shown = len(self._lines)

    def action_leave(self) -> None:
        self.dismiss(None)
