"""What a command prints that runs beside this screen."""

from dataclasses import dataclass, field
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import RichLog, Static

from cld_core.texts import printable

from .fitting import cut
from .keys import key_line


@dataclass
class Output:
    """What a command has printed, to which others append."""

    lines: list[str] = field(default_factory=list)
    is_over: bool = False


class OutputScreen(Screen[None]):
    """The lines of one command; leaving it does not end the command, leaving `cldctl top` does.

    Args:
        what: what the command does.
        output: what it has printed, of which `go_on` shows what is new.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "leave", show=False)]

    def __init__(self, what: str, output: Output) -> None:
        super().__init__()
        self.what, self._output = what, output
        self._shown = 0

    def compose(self) -> ComposeResult:
        yield Static(id="log-title")
        yield RichLog(id="log", wrap=True, min_width=1, highlight=False, markup=False)
        yield Static(id="log-keys")

    def on_mount(self) -> None:
        self.go_on()
        self.query_one("#log-title", Static).update(Text(cut(self.what, max(self.app.size.width, 20)), "bold"))
        self.query_one(RichLog).focus()

    def go_on(self) -> None:
        """Show the lines that are new, and whether the command has ended."""
        # Before it is mounted, there is no place for them.
        for log in self.query(RichLog):
            for line in self._output.lines[self._shown :]:
                log.write(Text(printable(line)))
            self._shown = len(self._output.lines)
        back = "back" if self._output.is_over else "back; the command goes on until you quit"
        for keys in self.query("#log-keys").results(Static):
            keys.update(key_line([], [("esc", back)], max(self.app.size.width, 20)))

    def action_leave(self) -> None:
        self.dismiss(None)
