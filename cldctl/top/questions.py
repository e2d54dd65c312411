"""Screens above others: a question before something dangerous, and help."""

from collections.abc import Mapping
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from .arrange import FILTERS
from .keys import Keys, key_line

HELP = (
    ("up down j k", "select a run; page up/down, home, end"),
    ("enter or l", "the log, at the rank that failed first"),
    ("space", "fold or unfold a group of runs"),
    ("tab", "to the details and back; arrows scroll"),
    ("r", "resume the run, or all runs of a group"),
    ("c", "cancel the run, or all runs of a group"),
    ("s", "draw samples of the run"),
    ("o", "write the report of the run, and open it"),
    ("/", "show only runs that contain these words"),
    *((key, f"show {name} runs only" if states else "show all runs") for key, (name, states) in FILTERS.items()),
    ("esc", "clear filters and messages"),
    ("q", "quit; runs go on, drawing of samples ends"),
)
MARKS = (
    ("█ ▒ ░", "trained, starting, in the queue"),
    ("F P T", "finished, preempted, at the time limit"),
    ("S Q C", "SIGTERM, requeued, cancelled"),
    ("X M I", "crashed, out of memory, loss not finite"),
    ("N W K", "node failed, save failed, killed"),
    ("U i", "unfit machine, imported"),
    ("▶ ?", "training, no end recorded"),
    ("■ ▶ ░", "shards: done, running, waiting"),
    ("× ·", "shards: failed, missing"),
)


class Question(ModalScreen[bool]):
    """A question that is answered by y or n; n is what everything else means."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", show=False),
        Binding("n,escape,q,enter", "answer(False)", show=False),
    ]

    def __init__(self, question: str, detail: str) -> None:
        super().__init__()
        self._question, self._detail = question, detail

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="question", can_focus=False):
            yield Static(Text(self._question, "bold"))
            yield Static(Text(self._detail))
            yield Static(key_line([("y", "yes")], [("n", "no")], 40), id="answers")

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class Help(ModalScreen[None]):
    """What keys and marks mean.

    Args:
        parts: the entries below each title.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "leave", show=False)]

    def __init__(self, parts: Mapping[str, Keys]) -> None:
        super().__init__()
        self._parts = parts

    def compose(self) -> ComposeResult:
        text = Text()
        for title, entries in self._parts.items():
            text.append(f"{title}\n", "bold")
            for key, what in entries:
                text.append(f"  {key:13}", "bold").append(f"{what}\n")
        with VerticalScroll(id="help"):
            # At the top, and always seen: a small terminal does not show everything.
            yield Static(key_line([("up down", "scroll")], [("esc", "back")], 40), id="help-keys")
            yield Static(text)

    def on_mount(self) -> None:
        self.query_one("#help").focus()

    def action_leave(self) -> None:
        self.dismiss(None)
