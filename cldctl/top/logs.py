"""Screens of text that grows: the log of a run, and what a command has printed."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer, RichLog, Static

from cld_core.errors import NotFoundError
from cld_core.evaluation.evaluation import evaluations_of
from cld_core.run import RunFolder
from cld_core.run.causes import fate_of
from cld_core.texts import one_line, printable
from cldctl.runs.failing import failed_log, last_failed
from cldctl.runs.logs import Log, Part, of_evaluation, of_training
from cldctl.runs.status import said

from .actions import Command

# Seconds between two looks for new lines; lines and bytes of a file that are shown at first or in one look.
_EVERY_S, _FIRST_LINES, _LOOK_BYTES = 0.5, 2000, 2**20
# Lines that are kept, and characters of one.
_MOST, _LINE = 10_000, 2000
_RANK, _ATTEMPT = Binding.Group("Rank"), Binding.Group("Attempt")


class Watching(Screen[None]):
    """A screen with threads, which send it what they find."""

    def in_background(self, do: Callable[[], object]) -> None:
        """Do something that may take a while."""
        # Daemons: a scheduler or a disk that hangs keeps nobody from leaving.
        threading.Thread(target=do, daemon=True).start()

    def later(self, do: Callable[..., object], *arguments: object) -> None:
        """From any thread: do something in that of the screen, if it is still there."""
        with contextlib.suppress(RuntimeError):
            self.call_later(do, *arguments)


class OutputScreen(Screen[None]):
    """What a command has printed; leaving it does not end the command, leaving `cldctl top` does."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss", "Back")]

    def __init__(self, command: Command) -> None:
        super().__init__()
        self.command = command

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield RichLog(wrap=True, min_width=1)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.show()

    def show(self) -> None:
        """Show what is new, and whether the command has ended."""
        how = {None: "goes on until you quit", 0: "done"}.get(self.command.code, "failed")
        self.query_one("#title", Static).update(Text(f"cldctl {self.command.title}: {how}", "bold"))
        log = self.query_one(RichLog).clear()
        log.write(Text(printable(self.command.output)))


@dataclass(frozen=True)
class Place:
    """Which log of a run: of its newest job, of one attempt, or of an evaluation; and which rank."""

    rank: int = 0
    attempt: int | None = None
    evaluation: str | None = None
    failed_first: bool = False

    def log(self, run: RunFolder) -> Log:
        """The log.

        Raises:
            CldError: there is none.
        """
        if not run.exists:
            raise NotFoundError(f"{run.name}: the run is gone")
        if self.evaluation is not None:
            return of_evaluation(run, self.evaluation, None, self.rank)
        return of_training(run, self.attempt, self.rank)


def first_place(run: RunFolder) -> Place:
    """The rank that failed first if the last attempt failed and no later job waits; else the newest job's rank 0."""
    history = run.ledger.history()
    last, jobs = history.last, history.jobs
    if last is None or fate_of(last.cause) != "crashes" or history.requeued is not None:
        return Place()
    return Place() if jobs and jobs[-1].job.job_id != last.job_id else failed_place(run)


def failed_place(run: RunFolder) -> Place:
    """The rank that failed first, in the last attempt that failed.

    Raises:
        NotFoundError: nothing failed.
    """
    log, _ = failed_log(run, None)
    attempt = last_failed(run.ledger.history())
    return Place(log.rank, None if attempt is None else attempt.attempt, failed_first=True)


def other_place(run: RunFolder, place: Place, what: str, step: int) -> Place:
    """The next log, round and round.

    Args:
        what: "rank" of the same job; "attempt", behind the last of which is the newest job; or "evaluation", the
            newest of which follows the training.

    Raises:
        NotFoundError: there is only one.
    """
    options: list[Any]
    if what == "rank":
        options = [int(rank) for rank in place.log(run).ranks()]
    elif what == "attempt":
        options = [*(it.attempt for it in run.ledger.history().attempts if it.job_id is not None), None]
    else:
        options = [None, *(work.name for work in reversed(evaluations_of(run)) if work.ledger.history().jobs)]
    if len(options) < 2:
        known = "no evaluation was started" if what == "evaluation" else f"there is only one {what}"
        raise NotFoundError(f"{run.name}: {known}.")
    now = getattr(place, what)
    other = options[((options.index(now) if now in options else 0) + step) % len(options)]
    return replace(place if what == "rank" else Place(), failed_first=False, **{what: other})


@dataclass
class Tail:
    """What a log has, and what is appended to it. Asks no scheduler."""

    log: Log
    # Of each file, the bytes that are shown, and those that there were.
    _shown: dict[Path, int] = field(default_factory=dict)
    _ends: dict[Path, int] = field(default_factory=dict)

    def new_lines(self) -> list[tuple[str, bool]]:
        """What was not shown yet: lines without control characters, each with whether it is from the log of errors.

        Raises:
            OSError: a file cannot be read.
        """
        if self._shown and not self.log.is_newest:
            return []  # What is appended now belongs to a later start.
        files = self.log.files()
        # Where a start begins is looked for once.
        parts = [Part(file) for file in files] if self._shown.keys() >= set(files) else self.log.parts()
        return [(_printable(line), part.is_errors) for part in parts for line in self._lines(part)]

    def _lines(self, part: Part) -> list[bytes]:
        end = os.stat(part.file).st_size if part.end is None else part.end
        begin = self._shown.get(part.file)
        if begin is None:
            begin = max(replace(part, end=end).last(_FIRST_LINES).begin, end - _LOOK_BYTES)
        end = max(begin, min(end, begin + _LOOK_BYTES))
        lines = list(Part(part.file, begin, end).lines())
        # The end of a line may be yet to be written; if nothing more is, it is shown as it is.
        is_open = bool(lines) and not lines[-1].endswith(b"\n") and self._ends.get(part.file) != end
        rest = lines.pop() if is_open else b""
        self._ends[part.file], self._shown[part.file] = end, end - len(rest)
        return lines


def _printable(line: bytes) -> str:
    # Of a bar that was drawn again and again, the last state is what a terminal would show.
    text = line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
    return printable(text, keep="\t").expandtabs(8)[:_LINE]


class LogScreen(Watching):
    """The log of one rank at a time, which follows what is written.

    Args:
        run: its folder.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "turn('rank', 1)", "Next rank", group=_RANK),
        Binding("p", "turn('rank', -1)", "Previous rank", group=_RANK),
        Binding("right_square_bracket", "turn('attempt', 1)", "Next attempt", key_display="]", group=_ATTEMPT),
        Binding("left_square_bracket", "turn('attempt', -1)", "Previous attempt", key_display="[", group=_ATTEMPT),
        Binding("f", "failed", "Failed first"),
        Binding("e", "turn('evaluation', 1)", "Evaluation"),
        Binding("escape,q", "dismiss", "Back"),
    ]

    def __init__(self, run: str) -> None:
        super().__init__()
        self._of = RunFolder(run)
        self._requests: queue.Queue[Callable[[Place], Place] | None] = queue.Queue()

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield RichLog(max_lines=_MOST, wrap=False, min_width=1)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.query_one("#title", Static).update(Text(self._of.name, "bold"))
        self._requests.put(lambda place: first_place(self._of))
        self.in_background(self._read)

    def on_unmount(self) -> None:
        self._requests.put(None)

    def action_turn(self, what: str, step: int) -> None:
        self._requests.put(lambda place: other_place(self._of, place, what, step))

    def action_failed(self) -> None:
        self._requests.put(lambda place: failed_place(self._of))

    def _read(self) -> None:
        """In the background: open what is asked for, and pass on what is written to it."""
        place, tail = Place(), None
        while True:
            try:
                with contextlib.suppress(queue.Empty):
                    if (request := self._requests.get(timeout=_EVERY_S)) is None:
                        return
                    other = request(place)
                    tail, place = Tail(other.log(self._of)), other
                    self.later(self._open, place, tail.log)
                if tail is not None and (lines := tail.new_lines()):
                    self.later(self._write, lines)
            except Exception as error:
                self.later(self._refuse, said(error))

    def _open(self, place: Place, log: Log) -> None:
        where = f"job {log.job.job_id}" if place.attempt is None else f"attempt {place.attempt}"
        where = where if place.evaluation is None else f"evaluation {place.evaluation}"
        title = f"{self._of.name} · {where}, rank {place.rank}{': failed first' if place.failed_first else ''}"
        self.query_one("#title", Static).update(Text(one_line(title), "bold"))
        self.query_one(RichLog).clear()
        if log.note is not None:
            self.query_one(RichLog).write(Text(one_line(log.note), "yellow"))

    def _write(self, lines: Sequence[tuple[str, bool]]) -> None:
        log = self.query_one(RichLog)
        text = Text("\n").join(Text(line, "red" if is_error else "", no_wrap=True) for line, is_error in lines)
        # Not if somebody has scrolled up.
        log.write(text, scroll_end=log.is_vertical_scroll_end)

    def _refuse(self, problem: str) -> None:
        self.notify(problem, severity="warning", markup=False)
