"""How far something is, while somebody waits for it: bars on a terminal, lines elsewhere."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from rich.text import Text

from cld_core.sanitize import one_line

from . import console
from .console import err
from .format import duration, number, shortened

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# A file gets a line about what gets on after so many seconds, or after this part of it, whichever is sooner.
EVERY_S, EVERY_PART = 10.0, 0.05
# From so many columns on there is room for a whole bar.
_WIDE, _BAR, _NAME = 100, 20, 20
# Columns that a name, a bar and a count need, and each other fact.
_LEAST, _FACT = 50, 25


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How far something is that somebody follows.

    Attributes:
        done, total: steps or rows (``unit``).
        phase: what it does, in words; empty if the state says all.
        facts: more about it, the most important one first.
        elapsed_s, left_s: seconds since it began, and until it will be done; None if nobody knows.
        remark: what is unusual.
    """

    name: str
    done: int
    total: int
    state: str
    phase: str = ""
    unit: str = "steps"
    facts: Sequence[str] = ()
    elapsed_s: float | None = None
    left_s: float | None = None
    remark: str = ""

    @property
    def counted(self) -> str:
        return f"{self.done:,}/{self.total:,} {self.unit}"

    @property
    def line(self) -> str:
        """For a file."""
        what = " ".join(filter(None, (self.name, self.state, self.phase)))
        eta = "" if self.left_s is None else f"ETA {duration(self.left_s)}"
        return "; ".join(filter(None, [f"{what}: {self.counted}", *self.facts, eta, self.remark]))

    def paced(self, began: float, first: int) -> "Shown":
        """The same with its times: what is left takes as long, per step or row, as what was done since ``began``.

        Args:
            began: when it was seen first, by the monotonic clock, and ``first``, what was done by then.
        """
        elapsed, done = time.monotonic() - began, self.done - first
        if done <= 0 or elapsed <= 0:
            return replace(self, elapsed_s=elapsed)
        facts, left_s = [*self.facts, f"{number(done / elapsed, 3)}/s"], (self.total - self.done) * elapsed / done
        return replace(self, facts=facts, elapsed_s=elapsed, left_s=left_s)


class View:
    """A context in which the progress of several things is shown on stderr.

    Args:
        is_transient: on a terminal, nothing of it stays there.
    """

    def __init__(self, *, is_transient: bool = False) -> None:
        self._progress = _bars(is_transient=is_transient) if console.shows_bars() else None
        self._tasks: dict[str, TaskID] = {}
        self._first: dict[str, tuple[float, int]] = {}
        # The newest line about each thing, when it was written, and the phases of its state that have one.
        self._lines: dict[str, tuple[Shown, float, set[str]]] = {}

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, shown: Shown, *, is_paced: bool = False) -> None:
        """Show how far something is; of the same name, instead of what was shown before.

        Args:
            is_paced: it does not report its rate and times, which follow from what was shown first.
        """
        if is_paced:
            shown = shown.paced(*self._first.setdefault(shown.name, (time.monotonic(), shown.done)))
        if self._progress is not None:
            self._draw(self._progress, shown)
        elif console.shows_phases():
            self._print(shown)

    def _draw(self, progress: "Progress", shown: Shown) -> None:
        # Here, because what shows a help loads this file.
        from cldctl.runs.state import STATES

        if shown.name not in self._tasks:
            self._tasks[shown.name] = progress.add_task("", head=Text(), known="")
        head = Text.assemble((shortened(shown.name, _NAME), "bold"), "  ", no_wrap=True)
        head.append(shown.phase or shown.state, STATES.get(shown.state, ""))
        elapsed = [] if shown.elapsed_s is None else [f"{duration(shown.elapsed_s)} elapsed"]
        known = [shown.counted, *([shown.remark] if shown.remark else shown.facts), *elapsed]
        known = known[: 1 + bool(shown.remark) + max(err.width - _LEAST, 0) // _FACT]
        known += [] if shown.left_s is None else [f"{duration(shown.left_s)} left"]
        task, total = self._tasks[shown.name], shown.total or 1
        progress.update(task, completed=shown.done, total=total, head=head, known="  ".join(known), refresh=True)

    def _print(self, shown: Shown) -> None:
        now = time.monotonic()
        last, when, phases = self._lines.get(shown.name, (shown, now, set()))
        if (shown.state, bool(shown.remark)) != (last.state, bool(last.remark)):
            phases = set()
        # The phase of a group counts its states.
        done, is_alive = shown.done - last.done, "RUNNING" in f"{shown.state} {shown.phase}"
        is_due = (done > 0 or is_alive) and (now - when >= EVERY_S or done >= EVERY_PART * shown.total)
        if is_due or shown.phase not in phases:
            self._lines[shown.name] = (shown, now, phases | {shown.phase})
            err.print(shown.line)


class Working(View):
    """A context in which a command says what it does. On a terminal, nothing of it stays there.

    Args:
        what: the first phase, such as "loading mine".
        announced: print the first phase in a pipe, too. Not for a command that may still fail with a one-line error.
    """

    def __init__(self, what: str, *, announced: bool = False) -> None:
        super().__init__(is_transient=True)
        self._what = "" if announced else one_line(what)
        if self._progress is not None:
            self._task = self._progress.add_task("", total=None, head=Text(one_line(what)), known="")
        self.phase(what)

    def phase(self, what: str) -> None:
        """Begin to do something else, of which nobody knows yet how far it is."""
        before, self._what = self._what, one_line(what)
        if before != self._what and self._progress is not None:
            self._progress.reset(self._task, total=None, head=Text(self._what), known="")
        elif before != self._what and console.shows_phases():
            err.print(self._what, style="dim")

    def at(self, done: int, total: int | None, unit: str = "") -> None:
        """Show how much of the phase is done: a count, if nobody knows of how much."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total)
            left, of = self._progress.tasks[0].time_remaining, "" if total is None else f"/{total:,}"
            known = one_line(f"{done:,}{of} {unit}") + ("" if left is None else f"  {duration(left)} left")
            self._progress.update(self._task, known=known)


def _bars(*, is_transient: bool) -> "Progress":
    """Bars of things with the fields ``head``, a text that may be folded, and ``known``."""
    # Here, because it takes a while to import, and most commands show nothing.
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn

    class Head(ProgressColumn):
        def render(self, task: Task) -> Text:
            head: Text = task.fields["head"]
            return head

    bar = BarColumn(bar_width=_BAR if err.width >= _WIDE else _BAR // 2)
    columns = (SpinnerColumn(), Head(), bar, TextColumn("{task.fields[known]}", markup=False))
    # What somebody follows says its own times.
    times = [TimeElapsedColumn()] if is_transient else []
    return Progress(*columns, *times, console=err, transient=is_transient)
