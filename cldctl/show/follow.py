"""What was started, its progress with `--follow`, how it ended, and what to type next."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Task
from rich.text import Text

from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation, Sweep
from cld_core.run.groups import Group
from cld_core.run.work import Training, Work
from cldctl.runs.selection import command
from cldctl.runs.snapshot import left_out_code
from cldctl.runs.start import OUTCOMES, PlannedWork, Submission

from .console import (
    STYLES,
    Bars,
    duration,
    err,
    number,
    out,
    say_incomplete,
    say_next,
    shortened,
    state_text,
    strong,
)

if TYPE_CHECKING:
    from cldctl.runs.follow import WorkStates
    from cldctl.runs.status import RunStatus

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
class ProgressLine:
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
        self._lines: dict[str, tuple[ProgressLine, float, set[str]]] = {}
        self._has_warned = False

    def draw(self, works: Sequence[Work], look: "WorkStates", submission: Submission) -> None:
        """Show a look at works: at runs of a group below a line of the group, if they are few."""
        remark = look.answers.remark or ""
        group = submission.group
        if look.rows and group is None:
            (row,) = look.rows
            if row.state == "RUNNING" and row.reason and not self._has_warned:
                self._has_warned = True
                err.print(row.reason, style="yellow")
            self.show(_of_run(row, row.name, remark))
        elif look.rows and group is not None:
            self.show(_of_group(group.name, look), is_paced=True)
            if not self.disable and len(look.rows) <= _MOST_BARS:
                for row in look.rows:
                    self.show(_of_run(row, f"  {row.name}"))
        else:
            self.show(_of_divided(_title(works, submission), works, look), is_paced=True)

    def show(self, line: ProgressLine, *, is_paced: bool = False) -> None:
        """Show progress; it replaces that of the same name.

        Args:
            is_paced: estimate rate and times from the progress since it was shown first.
        """
        if line.name not in self._bars:
            self.add_task("", head=Text(), detail="", first=line.done)
            self._bars[line.name] = self.tasks[-1]
        bar = self._bars[line.name]
        self.update(bar.id, completed=line.done, total=line.total or 1)
        if is_paced:
            line = replace(line, elapsed_s=bar.elapsed)
            gained = line.done - bar.fields["first"]
            # The mean over the whole time, because rows come in bursts.
            if gained > 0 and bar.elapsed:
                rate = gained / bar.elapsed
                left_s = max(0, line.total - line.done) / rate
                line = replace(line, facts=[*line.facts, f"{number(rate, 3)}/s"], left_s=left_s)
        if self.disable:
            self._print(line)
        head = Text.assemble((shortened(line.name, _NAME), "bold"), "  ", no_wrap=True)
        head.append(line.phase or line.state, STYLES.get(line.state, ""))
        facts = [] if line.remark else [*line.facts]
        if line.elapsed_s is not None:
            facts.append(f"{duration(line.elapsed_s)} elapsed")
        facts = facts[: max(err.width - _LEAST, 0) // _FACT]
        left = "" if line.left_s is None else f"{duration(line.left_s)} left"
        detail = "  ".join(filter(None, [line.counted, line.remark, *facts, left]))
        self.update(bar.id, head=head, detail=detail, refresh=True)

    def _print(self, line: ProgressLine) -> None:
        """Print a line of progress if the phase is new, or after `EVERY_S` or `EVERY_PART`."""
        now = time.monotonic()
        last, when, phases = self._lines.get(line.name, (line, now, set()))
        if line.state != last.state or bool(line.remark) != bool(last.remark):
            phases = set()
        done = line.done - last.done
        # The phase of a group counts the states of its runs.
        is_alive = "RUNNING" in f"{line.state} {line.phase}"
        is_time = now - when >= EVERY_S or done >= EVERY_PART * line.total
        is_due = is_time and (done > 0 or is_alive)
        if not is_due and line.phase in phases:
            return
        self._lines[line.name] = (line, now, phases | {line.phase})
        what = " ".join(filter(None, (line.name, line.state, line.phase)))
        eta = "" if line.left_s is None else f"ETA {duration(line.left_s)}"
        parts = [f"{what}: {line.counted}", *line.facts, eta, line.remark]
        err.print("; ".join(filter(None, parts)))


def _of_run(row: "RunStatus", name: str, remark: str = "") -> ProgressLine:
    """The progress of a run, from its row in `cldctl status`."""
    from cldctl.runs.status import WAITING

    # Elapsed since the attempt began, or since the run waits for the queue.
    since = None
    if row.state == "RUNNING":
        since = row.attempts[-1]["started"] if row.attempts else row.created
    elif row.phase == WAITING:
        since = row.attempts[-1]["ended"] if row.attempts else row.created
    facts = []
    if row.shown_loss is not None:
        facts.append(f"loss {number(row.shown_loss)}")
    if row.steps_per_s is not None:
        facts.append(f"{number(row.steps_per_s, 3)} steps/s")
    return ProgressLine(
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


def _title(works: Sequence[Work], submission: Submission) -> str:
    """The name of the line of works other than trainings."""
    if submission.sweep is not None:
        return submission.sweep.id
    if submission.group is not None:
        return f"{len(works)} {works[0].called}s of {submission.group.name}"
    if works[0].together and works[0].run is not None:
        return f"{works[0].called} of {works[0].run.name}"
    return works[0].name if len(works) == 1 else f"{len(works)} {works[0].called}s"


def _of_group(name: str, look: "WorkStates") -> ProgressLine:
    from .runs import states

    return ProgressLine(
        name=name,
        done=sum(row.step for row in look.rows),
        total=sum(row.steps or 0 for row in look.rows) or 1,
        state="",  # A group has none: its phase counts the states of its runs.
        phase=states(look.rows),
        remark=look.answers.remark or "",
    )


def _of_divided(name: str, works: Sequence[Work], look: "WorkStates") -> ProgressLine:
    """The progress of evaluations, tunings or statistics; several share a line."""
    from cldctl.runs.status import STARTING, WAITING

    counts = [work.rows_done() for work in works]
    done = sum(computed for computed, _ in counts)
    total = sum(rows for _, rows in counts)
    unit = " and ".join(dict.fromkeys(work.unit for work in works))
    if len(works) > 1:
        finished = look.states.count("FINISHED")
        unit += f"; {finished} of {len(works)} {works[0].called}s complete"
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
    return ProgressLine(
        name=name, done=done, total=total, state=state, phase=phase, unit=unit, remark=remark
    )


def say_unwatched(place: RunFolder | Group | None) -> None:
    """Print that the jobs continue, and how to watch them again."""
    if place is None:
        err.print("\nno longer watching; the job continues. Run the same command again to watch")
        return
    err.print("\nno longer watching; the jobs continue. To watch them again:")
    err.print(f"  {command(f'status {place.name} --watch', place)}")


# --- what was started


def say_trainings(submission: Submission) -> None:
    """Print which runs were started, by which jobs, and their chained evaluations."""
    place = submission.place
    # On a terminal, the name of a run has just been printed.
    if submission.group is not None or not (out.is_terminal and err.is_terminal and not err.quiet):
        out.print(place.name)
    if submission.group is not None:
        counts = _counted(submission.works)
        err.print(strong(f"{len(submission.works)} runs of the group ", place.name, f": {counts}"))
    jobs = submission.jobs
    if jobs and not submission.blocks:
        first = next(planned for planned in submission.works if planned.job is not None)
        if (line := left_out_code(first.run)) is not None:
            err.print(line, style="yellow")
        # Each task of an array has a job id of its own: ARRAY_TASK.
        ids = [job.job_id.partition("_")[0] if submission.group else job.job_id for job in jobs]
        err.print(f"job {', '.join(dict.fromkeys(ids))} ({jobs[0].cluster})")
        evaluations = submission.chained
        if submission.group is None:
            for work in evaluations:
                err.print(f"then evaluation {work.name}")
            for text in submission.messages:
                err.print(text)
        elif evaluations:
            each = "each" if len(evaluations) == len(jobs) else len(evaluations)
            err.print(f"then an evaluation of {each}")
    say_errors(submission.works)


def say_divided(submission: Submission) -> None:
    """Print which works of runs are complete, which are being computed, and by which job."""
    say_errors(submission.works)
    by_run: dict[Path, list[PlannedWork]] = {}
    for planned in submission.works:
        by_run.setdefault(planned.run.path, []).append(planned)
    for works in by_run.values():
        run = works[0].run
        called = works[0].work.called
        if len(works) > 1:
            err.print(strong(f"{len(works)} {called}s of ", run.name, f": {_counted(works)}"))
        elif works[0].outcome not in (None, "started"):
            err.print(
                f"{works[0].work.name} is already {works[0].outcome.removeprefix('already ')}"
            )
        jobs = [planned for planned in works if planned.job is not None]
        if not jobs or jobs[0].job is None:
            continue
        what = strong(f"{called} ", jobs[0].work.name)
        if submission.sweep is not None:
            what = strong(f"{called} ", submission.sweep.id)
        elif len(works) > 1:
            what = strong(f"{called}s")
        err.print(what, f"of {run.name}, job {jobs[0].job.job_id} ({jobs[0].job.cluster})")
    for text in submission.messages:
        err.print(text)


def say_errors(works: Iterable[PlannedWork]) -> None:
    """Print which works could not be started, and why."""
    for planned in works:
        if planned.error is not None:
            err.failure(f"{planned.run.name}: {planned.error}", style="red")


def _counted(works: Iterable[PlannedWork]) -> str:
    """How often each outcome occurs, in the order of `OUTCOMES`: "2 new, 1 resumed"."""
    counts = Counter(planned.outcome or "not started" for planned in works)
    return ", ".join(f"{counts[word]} {word}" for word in OUTCOMES if counts[word])


def say_next_of_trainings(submission: Submission) -> None:
    """Print what to type while trainings run."""
    place = submission.place
    if submission.group is None:
        then = f"logs {place.name} -f"
    elif any(planned.run.evaluation_names() for planned in submission.works):
        then = f"compare {place.name}"
    else:
        then = f"eval {place.name} --elbo"
    say_next(place, f"status {place.name}", then, f"cancel {place.name}")


def say_next_of_evaluations(submission: Submission) -> None:
    """Print the names of evaluations that the command does not wait for, and what to type next."""
    place = submission.place
    if submission.group is not None:
        out.print(place.name)
        say_next(place, f"status {place.name}", f"compare {place.name}")
        return
    names = [planned.work.name for planned in submission.works]
    out.print("\n".join(names) if submission.sweep is None else submission.sweep.id)
    by_outcome = {planned.outcome: planned.work for planned in reversed(submission.works)}
    alive = by_outcome.get("started") or by_outcome["being computed"]
    say_next(place, f"status {place.name}", f"logs {place.name} --eval {alive.name} -f")


# --- how it ended


def say_end_of_run(run: RunFolder, row: "RunStatus", works: Sequence[Work]) -> int:
    """Print how a training ended, and the results of its chained evaluations.

    Returns:
        1 if an evaluation is not complete.
    """
    saved = "" if row.checkpoint_step is None else f", checkpoint of step {row.checkpoint_step}"
    say = err.print if row.state == "FINISHED" else err.failure
    say(state_text(row.state), f"at step {row.step} of {row.steps}{saved}")
    if row.reason:
        say(row.reason)
    if row.state != "FINISHED":
        say_next(run, f"why {run.name}", f"logs {run.name}", f"resume {run.name}")
        return 0
    code = say_results(works)
    say_next(
        run, f"sample {run.name}", f"report {run.name}" if works else f"eval {run.name} --elbo"
    )
    return code


def say_end_of_evaluations(submission: Submission, *, waited: bool) -> int:
    """Print the results of evaluations, or if some are not complete, what to type next.

    Args:
        waited: whether the command has waited for them.

    Returns:
        The exit code.
    """
    works = [planned.work for planned in submission.works]
    group = submission.group
    if group is not None and waited:
        code = say_end_of_group(group, works)
        if code == 0:
            say_next(group, f"compare {group.name}")
        return code or submission.exit_code
    if group is not None or not (waited or submission.is_over):
        say_next_of_evaluations(submission)
        return submission.exit_code
    code = say_results(works, submission.sweep)
    if code == 0:
        run = submission.works[0].run
        say_next(run, f"report {run.name}", f"status {run.name}")
    return code


def say_end_of_group(group: Group, works: Iterable[Work]) -> int:
    """Print a group, and which evaluations of its runs are not complete; return the exit code."""
    from cldctl.runs.follow import states_of

    from .runs import group_details

    rows = states_of([Training(run.path) for run in group.runs()]).rows
    out.print(group_details(group.name, rows))
    return say_incomplete(work for work in works if not work.is_done)


def say_next_of_group(
    group: Group, rows: "Sequence[RunStatus]", code: int, *, evaluated: bool
) -> None:
    """Print what to type after a group has ended with an exit code."""
    if code == 0:
        say_next(group, f"compare {group.name}" if evaluated else f"eval {group.name} --elbo")
        return
    failed = [f"why {row.name}" for row in rows if row.state not in ("FINISHED", "CANCELLED")]
    say_next(group, *failed[:1], f"resume {group.name}")


def say_results(works: Sequence[Work], sweep: Sweep | None = None) -> int:
    """Print the results of evaluations; return the exit code, 1 if one is not complete."""
    from cldctl.evals.results import rows as sweep_rows

    from .evaluations import by_step, evaluations, remarks, say_files, statuses_of, sweep_table

    chosen = [work for work in works if isinstance(work, Evaluation)]
    rows = statuses_of(chosen)
    missing = [work for work, row in zip(chosen, rows, strict=True) if row["state"] != "FINISHED"]
    if sweep is not None:
        run = chosen[0].run
        out.print(sweep_table(sweep, sweep_rows(run, sweep), {row["id"]: row for row in rows}))
        if not missing:
            say_files(run, sweep)
    elif rows:
        out.print(evaluations(rows))
        for table in by_step(rows):
            out.print(table)
    for line in remarks(rows):
        err.print(line)
    return say_incomplete(missing)
