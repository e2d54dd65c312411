"""The log of a run: it follows what is written, and opens at the rank that failed first."""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.message import Message
from textual.screen import Screen
from textual.widgets import RichLog, Static

from cld_core.run import RunFolder
from cld_core.texts import one_line
from cldctl.runs.tried import said

from . import sources
from .fitting import cut, wrapped
from .keys import key_line
from .questions import Help
from .sources import Source
from .tails import Tail

# Seconds between two looks for new lines.
_EVERY_S = 0.5
# Lines that are kept.
_MOST = 10_000
_KEYS = (("p", "n rank"), ("[", "] attempt"), ("f", "failed"), ("e", "eval"), ("home", "end scroll"))
_HELP = (
    ("up down", "scroll; page up, page down, home, end, left, right"),
    ("p n", "the rank before, the next rank"),
    ("[ ]", "the attempt before, the next attempt"),
    ("f", "the rank that failed first"),
    ("e", "the next evaluation"),
    ("esc or q", "back to the runs"),
)


class LogScreen(Screen[None]):
    """The log of one rank at a time."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", show=False),
        Binding("n", "rank(1)", show=False),
        Binding("p", "rank(-1)", show=False),
        Binding("right_square_bracket", "attempt(1)", show=False),
        Binding("left_square_bracket", "attempt(-1)", show=False),
        Binding("f", "failed", show=False),
        Binding("e", "evaluation", show=False),
        Binding("question_mark", "help", show=False),
    ]

    class Opened(Message):
        """Another log is shown; ``problem`` if there is none."""

        def __init__(self, source: Source | None, problem: str | None = None) -> None:
            super().__init__()
            self.source, self.problem = source, problem

    class Lines(Message):
        """New lines of the log that is shown, each with whether it is an error."""

        def __init__(self, lines: Sequence[tuple[str, bool]]) -> None:
            super().__init__()
            self.lines = lines

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        self._of = run
        self._requests: queue.Queue[Callable[[], Source] | None] = queue.Queue()
        self.source: Source | None = None
        self._problem: str | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="log-title")
        yield Static(id="log-problem")
        yield RichLog(id="log", max_lines=_MOST, wrap=False, min_width=1, highlight=False, markup=False)
        yield Static(id="log-keys")

    def on_mount(self) -> None:
        self._requests.put(lambda: sources.first_source(self._of))
        threading.Thread(target=self._read, daemon=True).start()
        self.query_one(RichLog).focus()
        self._draw()

    def on_unmount(self) -> None:
        self._requests.put(None)

    def on_resize(self, event: Resize) -> None:
        self._draw()

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_rank(self, step: int) -> None:
        self._ask(lambda source: sources.other_rank(self._of, source, step))

    def action_attempt(self, step: int) -> None:
        self._ask(lambda source: sources.other_attempt(self._of, source, step))

    def action_failed(self) -> None:
        self._requests.put(lambda: sources.failed_source(self._of))

    def action_evaluation(self) -> None:
        self._ask(lambda source: sources.next_evaluation(self._of, source))

    def action_help(self) -> None:
        self.app.push_screen(Help({"keys of the log": _HELP}))

    def _ask(self, find: Callable[[Source], Source]) -> None:
        """Look for another log from the one that is shown."""
        if (source := self.source) is not None:
            self._requests.put(lambda: find(source))

    def on_log_screen_opened(self, message: Opened) -> None:
        self._problem = message.problem
        if message.source is not None:
            self.source = message.source
            log = self.query_one(RichLog)
            log.clear()
            if message.source.log.note is not None:
                log.write(Text(one_line(message.source.log.note), "yellow"))
        self._draw()

    def on_log_screen_lines(self, message: Lines) -> None:
        log = self.query_one(RichLog)
        at_end = log.is_vertical_scroll_end
        for line, is_error in message.lines:
            log.write(Text(line, "red" if is_error else "", no_wrap=True), scroll_end=False)
        if at_end:
            # Once, not for each line: somebody may scroll up meanwhile.
            log.scroll_end(animate=False)

    def _draw(self) -> None:
        width = max(self.size.width, 20)
        title = f" · {self.source.title}" if self.source is not None else ""
        self.query_one("#log-title", Static).update(Text(cut(f"{self._of.name}{title}", width), "bold"))
        problem = self.query_one("#log-problem", Static)
        problem.display = self._problem is not None
        problem.update(Text("\n").join(Text(line, "red") for line in wrapped(self._problem or "", width, 3)))
        self.query_one("#log-keys", Static).update(key_line(_KEYS, [("?", "help"), ("esc", "back")], width))

    def _read(self) -> None:
        """In the background: open what is asked for, and pass on what is written to it."""
        tail: Tail | None = None
        while True:
            with contextlib.suppress(queue.Empty):
                request = self._requests.get(timeout=_EVERY_S)
                if request is None:
                    return
                tail = self._opened(request) or tail
            if tail is None:
                continue
            try:
                lines = tail.new_lines()
            except OSError as error:
                self._publish(self.Opened(None, f"the log cannot be read ({error.strerror})"))
                tail = None
                continue
            if lines:
                self._publish(self.Lines(lines))

    def _opened(self, request: Callable[[], Source]) -> Tail | None:
        """The log that is asked for; None if there is none, which is said."""
        try:
            source = request()
        except Exception as error:
            self._publish(self.Opened(None, said(error)))
            return None
        self._publish(self.Opened(source))
        return Tail(source.log)

    def _publish(self, message: Message) -> None:
        with contextlib.suppress(RuntimeError):  # The screen is gone.
            self.post_message(message)
