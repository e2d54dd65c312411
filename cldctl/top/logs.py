"""Screens of text that grows: the log of a run, and what a command has printed."""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer, RichLog, Static

from cld_core.errors import NotFoundError
from cld_core.run import RunFolder
from cld_core.run.events import fate_of
from cld_core.run.work import evaluations_of
from cld_core.sanitize import one_line, printable
from cldctl.runs.logs import Log, failed_log, of_evaluation, of_training
from cldctl.runs.status import said
from cldctl.show.logs import Tail

from .actions import Command

# Seconds between two looks for new lines, and lines of a file that are shown at first.
_EVERY_S, _FIRST_LINES = 0.5, 2000
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


class TextScreen(Watching):
    """A screen of text that grows, below a title."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss", "Back")]

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield RichLog(max_lines=_MOST, wrap=False, min_width=1)
        yield Footer(compact=True)

    def entitle(self, title: str) -> None:
        self.query_one("#title", Static).update(Text(one_line(title), "bold"))


class OutputScreen(TextScreen):
    """What a command has printed; leaving it does not end the command, leaving `cldctl top` does."""

    def __init__(self, command: Command) -> None:
        super().__init__()
        self.command = command

    def on_mount(self) -> None:
        self.query_one(RichLog).wrap = True
        self.show()

    def show(self) -> None:
        """Show what is new, and whether the command has ended."""
        how = {None: "goes on until you quit", 0: "done"}.get(self.command.code, "failed")
        self.entitle(f"cldctl {self.command.title}: {how}")
        self.query_one(RichLog).clear().write(Text(printable(self.command.output)))


def first_log(run: RunFolder) -> tuple[Log, bool]:
    """The rank that failed first if the last attempt failed and no later job waits; else the newest job's rank 0.

    Returns:
        Its log, and whether it failed first.
    """
    history = run.ledger.history()
    last, jobs = history.last, history.jobs
    if last is None or fate_of(last.cause) != "crashes" or history.requeued is not None:
        return of_training(run, None, 0), False
    if jobs and jobs[-1].job.job_id != last.job_id:
        return of_training(run, None, 0), False
    return failed_log(run, None)[0], True


def other_log(run: RunFolder, log: Log | None, what: str, step: int) -> Log:
    """The next log, round and round.

    Args:
        log: that is shown; None if there was none.
        what: "rank" of the same job; "attempt", behind the last of which is the newest job; or "evaluation", the
            newest of which follows the training.

    Raises:
        NotFoundError: there is only one.
    """
    options: list[Any]
    if what == "rank":
        log = _found_again(run, log)
        options = [int(rank) for rank in log.ranks()]
    elif what == "attempt":
        options = [*(it.attempt for it in run.ledger.history().attempts if it.job_id is not None), None]
    else:
        options = [None, *(work.name for work in reversed(evaluations_of(run)) if work.ledger.history().jobs)]
    if len(options) < 2:
        known = "no evaluation was started" if what == "evaluation" else f"there is only one {what}"
        raise NotFoundError(f"{run.name}: {known}.")
    now = getattr(log, what, None)
    other = options[((options.index(now) if now in options else 0) + step) % len(options)]
    if what == "rank" and log is not None:
        return replace(log, rank=other)
    if what == "evaluation" and other is not None:
        return of_evaluation(run, other, None, 0)
    return of_training(run, other if what == "attempt" else None, 0)


def _found_again(run: RunFolder, log: Log | None) -> Log:
    """The log that is shown as it is now: a later start may append to it, or a newer job may have begun."""
    if log is None:
        return of_training(run, None, 0)
    if log.evaluation is not None:
        return of_evaluation(run, log.evaluation, None, log.rank)
    return of_training(run, log.attempt, log.rank)


def _printable(line: bytes) -> str:
    # Of a bar that was drawn again and again, the last state is what a terminal would show.
    text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
    return printable(text, keep="\t").expandtabs(8)[:_LINE]


class LogScreen(TextScreen):
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
    ]

    def __init__(self, run: str) -> None:
        super().__init__()
        self._of = RunFolder(run)
        # Each finds another log than the one that is shown, and says whether its rank failed first.
        self._requests: queue.Queue[Callable[[Log | None], tuple[Log, bool]] | None] = queue.Queue()
        self._open_lines: dict[Path, bytes] = {}

    def on_mount(self) -> None:
        self.entitle(self._of.name)
        self._requests.put(lambda log: first_log(self._of))
        self.in_background(self._read)

    def on_unmount(self) -> None:
        self._requests.put(None)

    def action_turn(self, what: str, step: int) -> None:
        self._requests.put(lambda log: (other_log(self._of, log, what, step), False))

    def action_failed(self) -> None:
        self._requests.put(lambda log: (failed_log(self._of, None)[0], True))

    def _read(self) -> None:
        """In the background: open what is asked for, and pass on what is written to it."""
        log: Log | None = None
        tail = Tail(_FIRST_LINES)
        while True:
            try:
                with contextlib.suppress(queue.Empty):
                    if (request := self._requests.get(timeout=_EVERY_S)) is None:
                        return
                    if not self._of.exists:
                        raise NotFoundError(f"{self._of.name}: the run is gone")
                    log, failed_first = request(log)
                    tail = Tail(_FIRST_LINES)
                    self._open_lines.clear()
                    self.later(self._open, log, failed_first)
                if log is not None and (lines := self._new_lines(tail, log)):
                    self.later(self._write, lines)
            except Exception as error:
                self.later(self._refuse, said(error))

    def _new_lines(self, tail: Tail, log: Log) -> list[tuple[str, bool]]:
        """Lines without control characters, each with whether it is from the log of errors."""
        found = []
        for part in tail.new_parts(log):
            # The end of a line may be yet to be written; if nothing more is, it is shown as it is.
            *lines, rest = (self._open_lines.pop(part.file, b"") + b"".join(part.lines())).split(b"\n")
            if rest and part.begin != part.end:
                self._open_lines[part.file] = rest
            elif rest:
                lines.append(rest)
            found += [(_printable(line), part.is_errors) for line in lines]
        return found

    def _open(self, log: Log, failed_first: bool) -> None:
        where = f"job {log.job.job_id}" if log.attempt is None else f"attempt {log.attempt}"
        where = where if log.evaluation is None else f"evaluation {log.evaluation}"
        self.entitle(f"{self._of.name} · {where}, rank {log.rank}{': failed first' if failed_first else ''}")
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
