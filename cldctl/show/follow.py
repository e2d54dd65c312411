"""`--follow`: the progress of works, as bars on a terminal, and as lines elsewhere."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.progress import Task
from rich.text import Text

from cld_core.run.work import Work
from cldctl.runs.follow import Look
from cldctl.runs.start import Started
from cldctl.runs.status import STARTING, WAITING, RunStatus

from .console import Bars, duration, err, number, shortened
from .tables import STYLES

# The runs of a larger group have no bars of their own, only that of the group.
_MOST_BARS = 12
# In a file, progress gets a line after so many seconds, or this share of the work, whichever is
# sooner.
EVERY_S = 10.0
EVERY_PART = 0.05
# Widths: a name; a name, a bar and a count together; each further fact.
_NAME = 20
_LEAST = 50
_FACT = 25


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The progress of a run, a group or sharded work.

    Attributes:
        done, total: steps or rows (``unit``).
        phase: its activity, in words; empty if the state says all.
        facts: more facts, the most important one first.
        elapsed_s, left_s: seconds since it began, and until it will be done; None if unknown.
        remark: a warning, such as that a scheduler does not answer.
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


class View(Bars):
    """A context that shows the progress of several things on stderr, by their names."""

    def __init__(self) -> None:
        super().__init__(is_transient=False)
        # The field ``first`` of a bar is the progress when it was shown first.
        self._bars: dict[str, Task] = {}
        # In a file: the newest line of each name, its time, and the phases that have had one.
        self._lines: dict[str, tuple[Shown, float, set[str]]] = {}
        self._warnings: set[str] = set()

    def draw(self, works: Sequence[Work], look: Look, started: Started) -> None:
        """Show a look at works: at runs of a group below a line of the group, if they are few."""
        remark = look.answers.remark or ""
        group = started.group
        if look.rows and group is None:
            (row,) = look.rows
            if row.state == "RUNNING" and row.reason and row.reason not in self._warnings:
                self._warnings.add(row.reason)
                err.print(row.reason, style="yellow")
            self.show(_of_run(row, row.name, remark))
        elif look.rows and group is not None:
            self.show(_of_group(group.name, look), is_paced=True)
            if not self.disable and len(look.rows) <= _MOST_BARS:
                for row in look.rows:
                    self.show(_of_run(row, f"  {row.name}"))
        else:
            self.show(_of_divided(_title(works, started), works, look), is_paced=True)

    def show(self, shown: Shown, *, is_paced: bool = False) -> None:
        """Show progress; it replaces that of the same name.

        Args:
            is_paced: estimate rate and times from the progress since it was shown first.
        """
        if shown.name not in self._bars:
            self.add_task("", head=Text(), known="", first=shown.done)
            self._bars[shown.name] = self.tasks[-1]
        bar = self._bars[shown.name]
        self.update(bar.id, completed=shown.done, total=shown.total or 1)
        if is_paced:
            shown = replace(shown, elapsed_s=bar.elapsed)
            gained = shown.done - bar.fields["first"]
            # The mean over the whole time, because rows come in bursts.
            if gained > 0 and bar.elapsed:
                rate = gained / bar.elapsed
                left_s = max(0, shown.total - shown.done) / rate
                shown = replace(shown, facts=[*shown.facts, f"{number(rate, 3)}/s"], left_s=left_s)
        if self.disable:
            self._print(shown)
        head = Text.assemble((shortened(shown.name, _NAME), "bold"), "  ", no_wrap=True)
        head.append(shown.phase or shown.state, STYLES.get(shown.state, ""))
        facts = [] if shown.remark else [*shown.facts]
        if shown.elapsed_s is not None:
            facts.append(f"{duration(shown.elapsed_s)} elapsed")
        facts = facts[: max(err.width - _LEAST, 0) // _FACT]
        left = "" if shown.left_s is None else f"{duration(shown.left_s)} left"
        known = "  ".join(filter(None, [shown.counted, shown.remark, *facts, left]))
        self.update(bar.id, head=head, known=known, refresh=True)

    def _print(self, shown: Shown) -> None:
        """Print a line, if the phase is new or it is time for one."""
        now = time.monotonic()
        last, when, phases = self._lines.get(shown.name, (shown, now, set()))
        if shown.state != last.state or bool(shown.remark) != bool(last.remark):
            phases = set()
        done = shown.done - last.done
        # The phase of a group counts the states of its runs.
        is_alive = "RUNNING" in f"{shown.state} {shown.phase}"
        is_time = now - when >= EVERY_S or done >= EVERY_PART * shown.total
        is_due = is_time and (done > 0 or is_alive)
        if not is_due and shown.phase in phases:
            return
        self._lines[shown.name] = (shown, now, phases | {shown.phase})
        what = " ".join(filter(None, (shown.name, shown.state, shown.phase)))
        eta = "" if shown.left_s is None else f"ETA {duration(shown.left_s)}"
        parts = [f"{what}: {shown.counted}", *shown.facts, eta, shown.remark]
        err.print("; ".join(filter(None, parts)))


def _of_run(row: RunStatus, name: str, remark: str = "") -> Shown:
    last = row.attempts[-1] if row.attempts else {"started": row.created, "ended": row.created}
    since = None
    if row.state == "RUNNING":
        since = last["started"]
    elif row.phase == WAITING:
        since = last["ended"]
    facts = []
    if row.shown_loss is not None:
        facts.append(f"loss {number(row.shown_loss)}")
    if row.steps_per_s is not None:
        facts.append(f"{number(row.steps_per_s, 3)} steps/s")
    return Shown(
        name=name,
        done=row.step,
        total=row.steps or 1,
        state=row.state,
        phase=row.phase or "",
        facts=facts,
        elapsed_s=None if since is None else max(time.time() - since, 0.0),
        left_s=row.eta_s,
        remark=remark,
    )


def _title(works: Sequence[Work], started: Started) -> str:
    """The name of the line of works other than trainings."""
    if started.sweep is not None:
        return started.sweep.id
    if started.group is not None:
        return f"{len(works)} evaluations of {started.group.name}"
    if works[0].together and works[0].run is not None:
        return f"{works[0].called} of {works[0].run.name}"
    return works[0].name if len(works) == 1 else f"{len(works)} evaluations"


def _of_group(name: str, look: Look) -> Shown:
    from .runs import states

    return Shown(
        name=name,
        done=sum(row.step for row in look.rows),
        total=sum(row.steps or 0 for row in look.rows) or 1,
        state="",  # A group has none: its phase counts the states of its runs.
        phase=states(look.rows),
        remark=look.answers.remark or "",
    )


def _of_divided(name: str, works: Sequence[Work], look: Look) -> Shown:
    """The progress of evaluations, tunings or statistics; several share a line."""
    counts = [work.rows_done() for work in works]
    done = sum(computed for computed, _ in counts)
    total = sum(rows for _, rows in counts)
    unit = " and ".join(dict.fromkeys(work.unit for work in works))
    if len(works) > 1:
        unit += f"; {look.states.count('FINISHED')} of {len(works)} evaluations complete"
    order = ("RUNNING", "PENDING", "STOPPED", "FINISHED")
    state = next(state for state in order if state in look.states)
    phase = ""
    if state == "PENDING":
        phase = WAITING
    elif state == "RUNNING" and done >= total:
        phase = "merging"
    elif state == "RUNNING" and done == 0 and all(work.moved_at() is None for work in works):
        phase = STARTING
    elif state == "RUNNING":
        phase = works[0].doing
    remark = look.answers.remark or ""
    return Shown(
        name=name, done=done, total=total, state=state, phase=phase, unit=unit, remark=remark
    )
