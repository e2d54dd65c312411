"""`--follow`: the progress of runs, or of sharded work, until they end: bars on a terminal, lines elsewhere."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rich.text import Text

from cld_core.evaluation import registry
from cld_core.evaluation.evaluation import Evaluation
from cld_core.evaluation.stats_work import Statistics
from cld_core.evaluation.sweeps import Sweep
from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cld_core.shards import Work
from cldctl import clusters
from cldctl.evals.table import rows as sweep_rows
from cldctl.evals.table import write_finished
from cldctl.hints import command
from cldctl.runs import sharded, survey
from cldctl.runs.state import OVER, STATES
from cldctl.runs.status import STARTING, WAITING, RunStatus, status_of, status_or_reason
from cldctl.runs.survey import Answers, Ends
from cldctl.runs.work_status import evaluation_status, work_state

from . import console
from .console import err, out, say_next, shows_bars
from .evaluations import by_step, evaluations, remarks, sweep_table
from .format import duration, number, shortened
from .progress import bars
from .runs import group_details, states
from .tables import state_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# A file gets a line about what gets on after so many seconds, or after this part of it, whichever is sooner.
EVERY_S, EVERY_PART = 10.0, 0.05
_NAME = 20
# Columns that a name, a bar and a count need, and each other fact.
_LEAST, _FACT = 50, 25
# Of more runs of a group, and without a terminal, the line of the group alone is shown.
_MOST_BARS = 12


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
        eta = [] if self.left_s is None else [f"ETA {duration(self.left_s)}"]
        return "; ".join([f"{what}: {self.counted}", *self.facts, *eta, *([self.remark] if self.remark else [])])


@dataclass
class Pace:
    """Rate, elapsed and remaining time of something that does not report them: from when it was seen first."""

    began: float | None = None
    first: int = 0

    def of(self, shown: Shown) -> Shown:
        """The same with its times; what is left to do takes as long, per step or row, as what was done meanwhile."""
        now = time.monotonic()
        if self.began is None:
            self.began, self.first = now, shown.done
        elapsed, done = now - self.began, shown.done - self.first
        if done <= 0 or elapsed <= 0:
            return replace(shown, elapsed_s=elapsed)
        rate = done / elapsed
        facts = [*shown.facts, f"{number(rate, 3)}/s"]
        return replace(shown, facts=facts, elapsed_s=elapsed, left_s=(shown.total - shown.done) / rate)


@dataclass
class _Line:
    """The newest line of a file about one thing, when it was written, and the phases of its state that have one."""

    shown: Shown
    time: float
    phases: set[str] = field(default_factory=set)

    def is_enough(self, shown: Shown, now: float) -> bool:
        """Whether nothing is worth another line yet."""
        done = shown.done - self.shown.done
        is_due = done > 0 and (now - self.time >= EVERY_S or done >= EVERY_PART * shown.total)
        is_same = (shown.state, bool(shown.remark)) == (self.shown.state, bool(self.shown.remark))
        return is_same and shown.phase in self.phases and not is_due


class View:
    """A context in which the progress of several things is shown on stderr."""

    def __init__(self) -> None:
        self._progress = bars() if console.shows_bars() else None
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, _Line] = {}

    def __enter__(self) -> "View":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, shown: Shown) -> None:
        """Show how far something is; of the same name, instead of what was shown before."""
        if self._progress is not None:
            self._draw(self._progress, shown)
        elif console.shows_phases():
            self._print(shown)

    def _draw(self, progress: "Progress", shown: Shown) -> None:
        task = self._tasks.get(shown.name)
        if task is None:
            task = self._tasks[shown.name] = progress.add_task("", head="", known="", left=None)
        head = Text.assemble((shortened(shown.name, _NAME), "bold"), "  ", no_wrap=True)
        head.append(shown.phase or shown.state, STATES.get(shown.state, ""))
        elapsed = [] if shown.elapsed_s is None else [f"{duration(shown.elapsed_s)} elapsed"]
        known = [shown.counted, *([shown.remark] if shown.remark else shown.facts), *elapsed]
        known = known[: 1 + bool(shown.remark) + max(err.width - _LEAST, 0) // _FACT]
        left = "" if shown.left_s is None else f"{duration(shown.left_s)} left"
        fact = "  ".join(known)
        progress.update(task, completed=shown.done, total=shown.total or 1, head=head, known=fact, left=left)
        progress.refresh()

    def _print(self, shown: Shown) -> None:
        now, last = time.monotonic(), self._lines.get(shown.name)
        if last is not None and last.is_enough(shown, now):
            return
        phases = last.phases if last is not None and last.shown.state == shown.state else set()
        self._lines[shown.name] = _Line(shown, now, phases | {shown.phase})
        err.print(shown.line)


def follow_run(run: RunFolder, names: Sequence[str] = ()) -> int:
    """Show a run until it ends, then its chained evaluations; returns the exit code of docs/cli.md."""
    try:
        with View() as view:
            row = _watch_run(run, view)
            if row.state == "FINISHED":
                _watch_works(_evaluations(run, names), view)
    except KeyboardInterrupt:
        return _interrupted(run)
    saved = "" if row.checkpoint_step is None else f", checkpoint of step {row.checkpoint_step}"
    say = err.print if row.state == "FINISHED" else err.failure
    say(state_text(row.state), f"at step {row.step} of {row.steps}{saved}")
    if row.reason:
        say(row.reason)
    if row.state == "FINISHED":
        code = _results(run, names)
        _next(run, f"sample {run.name}", f"report {run.name}" if names else f"eval {run.name} --elbo")
        return code
    _next(run, f"why {run.name}", f"logs {run.name}", f"resume {run.name}")
    return 5 if row.state == "CANCELLED" else 1


def follow_evaluations(run: RunFolder, names: Sequence[str], sweep: Sweep | None = None) -> int:
    """Show evaluations, or the cells of a sweep, until they end; returns the exit code."""
    title = sweep.id if sweep is not None else None
    code = follow_works_of(run, _evaluations(run, names), title) or _results(run, names, sweep)
    if code == 0:
        _next(run, f"report {run.name}", f"status {run.name}")
    return code


def follow_statistics(work: Statistics) -> int:
    """Show statistics until they are complete, and print the path of their file; returns the exit code."""
    try:
        with View() as view:
            _watch_works([work], view)
    except KeyboardInterrupt:
        err.print("\nno longer watching; the job goes on. Run the same command again to watch")
        return 130
    if not work.request.is_done:
        err.failure(f"not complete; see {work.folder / 'logs'}, and run the same command again")
        return 1
    sharded.clear(work.folder)
    out.print(work.request.output, no_wrap=True)
    return 0


def follow_works_of(place: RunFolder, works: Sequence[Work], title: str | None) -> int:
    """Show sharded work until it ends; returns the exit code, 130 if somebody stops watching.

    Args:
        place: its run, or the place of its group.
    """
    try:
        with View() as view:
            _watch_works(works, view, title)
    except KeyboardInterrupt:
        return _interrupted(place)
    return 0


def _results(run: RunFolder, names: Sequence[str], sweep: Sweep | None = None) -> int:
    """Print the results of evaluations; 1 if one has none."""
    rows = statuses_of(_evaluations(run, names))
    missing = [row["id"] for row in rows if row["state"] != "FINISHED"]
    if sweep is not None:
        out.print(sweep_table(sweep, sweep_rows(run, sweep), {row["id"]: row for row in rows}))
        if not missing:
            say_files(run, sweep)
    elif rows:
        out.print(evaluations(rows))
        for table in by_step(rows):
            out.print(table)
    for line in remarks(rows):
        err.print(line)
    for name in missing:
        _incomplete(f"evaluation {name}", f"logs {run.name} --eval {name}", run)
    return 1 if missing else 0


def _incomplete(what: str, see: str, run: RunFolder) -> None:
    err.failure(f"{what} is not complete; see")
    err.failure(f"  {command(see, run)}")


def statuses_of(works: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """State and results of evaluations, as `status` knows them."""
    submitted = (event.job for work in works for event in work.ledger.history().submitted)
    answers = survey.ask(submitted, max_age_s=survey.TO_LOOK_S)
    return [evaluation_status(work, answers) for work in works]


def say_files(run: RunFolder, sweep: Sweep) -> None:
    """Write table and picture of a complete sweep, and print where they are."""
    write_finished(run)
    out.print(str(run.evals / sweep.id / "table.csv"), markup=False, no_wrap=True)
    out.print(str(run.evals / sweep.id / "plot.png"), markup=False, no_wrap=True)


def _evaluations(run: RunFolder, names: Sequence[str]) -> list[Evaluation]:
    return [Evaluation(run.evals / name) for name in names]


def _next(run: RunFolder, *commands: str) -> None:
    say_next(*(command(text, run) for text in commands))


def _interrupted(place: RunFolder) -> int:
    err.print("\nno longer watching; the jobs go on. Again:")
    err.print(f"  {command(f'status {place.name} --watch', place)}")
    return 130


def _watch_run(run: RunFolder, view: View) -> RunStatus:
    ends, warned = Ends(), False
    while True:
        answers = survey.of_runs([run], max_age_s=ends.max_age_s)
        row = status_of(run, answers)
        if row.state == "RUNNING" and row.reason and not warned:
            warned = True
            err.print(row.reason, style="yellow")
        view.show(shown_of(row, remark=answers.remark or ""))
        cluster = clusters.find(row.cluster) if row.cluster in clusters.CLUSTERS else clusters.default()
        # A job that is about to return to the queue looks over for a moment.
        ends.look(row.state in OVER, answers, is_sure=row.state in ("FINISHED", "CANCELLED"))
        if ends.seen >= (1 if row.state == "FINISHED" else cluster.looks_to_believe_an_end):
            return row
        time.sleep(cluster.poll_s)


def shown_of(row: RunStatus, name: str | None = None, remark: str = "") -> Shown:
    """How far a run is."""
    facts = [] if row.shown_loss is None else [f"loss {number(row.shown_loss)}"]
    facts += [] if row.steps_per_s is None else [f"{number(row.steps_per_s, 3)} steps/s"]
    return Shown(
        name=name or row.name,
        done=row.step,
        total=row.steps or 1,
        state=row.state,
        phase=row.phase or "",
        facts=facts,
        elapsed_s=_elapsed_s(row),
        left_s=row.eta_s,
        remark=remark,
    )


def _elapsed_s(row: RunStatus) -> float | None:
    """How long the attempt of a run that trains goes on, or how long it has waited since the one before, seconds."""
    last = row.attempts[-1] if row.attempts else {"started": row.created, "ended": row.created}
    since = last["started"] if row.state == "RUNNING" else last["ended"] if row.phase == WAITING else None
    return None if since is None else max(time.time() - since, 0.0)


def _phase(works: Sequence[Work], state: str, done: int, total: int) -> str:
    """What sharded work does that is in this state."""
    if state == "PENDING":
        return WAITING
    if state != "RUNNING":
        return ""
    if done >= total:
        return "merging"
    if done == 0 and not any(work.shards.is_dir() and any(work.shards.iterdir()) for work in works):
        return STARTING
    draws = all(isinstance(work, Evaluation) and registry.draws_samples(work.request.metrics) for work in works)
    return "drawing samples" if draws else works[0].doing


def _unit(works: Sequence[Work]) -> str:
    """What sharded work is counted in."""
    if not all(isinstance(work, Evaluation) for work in works):
        return works[0].unit
    over = {registry.ROWS[kind].over for work in works for kind in work.request.sizes}
    return " and ".join(sorted(over, reverse=True))


def _watch_works(works: Sequence[Work], view: View, title: str | None = None) -> None:
    """Until all are over; several share a line."""
    if not works:
        return
    title = title or (works[0].name if len(works) == 1 else f"{len(works)} evaluations")
    ends, pace = Ends(), Pace()
    while True:
        submitted = (event.job for work in works for event in work.ledger.history().submitted)
        answers = survey.ask(submitted, max_age_s=ends.max_age_s)
        found = [work_state(work, answers) for work in works]
        done, total = map(sum, zip(*(work.rows_done() for work in works), strict=True))
        finished = "" if len(works) == 1 else f"; {found.count('FINISHED')} of {len(works)} evaluations complete"
        active = [state for state in ("RUNNING", "PENDING") if state in found]
        state = active[0] if active else "FINISHED" if set(found) == {"FINISHED"} else "STOPPED"
        shown = Shown(
            name=title,
            done=done,
            total=total,
            state=state,
            phase=_phase(works, state, done, total),
            unit=f"{_unit(works)}{finished}",
            remark=answers.remark or "",
        )
        view.show(pace.of(shown))
        if _is_over(ends, answers, not active, is_finished=state == "FINISHED"):
            return


def follow_group(group: Group, runs: Sequence[RunFolder], evaluations: Mapping[str, Sequence[str]]) -> int:
    """Show the runs of a group until they end, then their chained evaluations; returns the exit code of docs/cli.md.

    Args:
        evaluations: the names of those that wait for a run, by the run's name.
    """
    try:
        with View() as view:
            rows = _watch_group(group, runs, view)
    except KeyboardInterrupt:
        return _interrupted(_place(group))
    finished = {row.name for row in rows if row.state == "FINISHED"}
    going_on = [run for run in runs if run.name in finished]
    works = [Evaluation(run.evals / name) for run in going_on for name in evaluations.get(run.name, ())]
    ended = follow_group_evaluations(group, runs, works)
    code = ended if ended == 130 else exit_code(rows) or ended
    if code != 130:
        _next(_place(group), *next_of_group(group, rows, code, evaluated=bool(works)))
    return code


def _place(group: Group) -> RunFolder:
    """Beside the runs of a group, so that commands about it find them."""
    return RunFolder(group.root / group.name)


def next_of_group(group: Group, rows: Sequence[RunStatus], code: int, *, evaluated: bool) -> list[str]:
    """What to type next about a group that ended with this exit code, without "cldctl "."""
    if code == 0:
        return [f"compare {group.name}" if evaluated else f"eval {group.name} --elbo"]
    failed = next((row.name for row in rows if row.state not in ("FINISHED", "CANCELLED")), None)
    return [*([] if failed is None else [f"why {failed}"]), f"resume {group.name}"]


def follow_group_evaluations(group: Group, runs: Sequence[RunFolder], works: Sequence[Evaluation]) -> int:
    """Show evaluations of runs of a group until they end, then the group; returns the exit code."""
    if code := follow_works_of(_place(group), works, f"{len(works)} evaluations of {group.name}"):
        return code
    answers = survey.of_runs(runs)
    out.print(group_details(group.name, [status_or_reason(run, answers) for run in runs]))
    missing = [work for work in works if not work.is_done]
    for work in missing:
        _incomplete(f"evaluation {work.name} of {work.run.name}", f"logs {work.run.name} --eval {work.name}", work.run)
    return int(bool(missing))


def exit_code(rows: Sequence[RunStatus]) -> int:
    """1 if a run failed or stopped, 5 if some were cancelled and the others are finished, else 0."""
    others = {row.state for row in rows} - {"FINISHED"}
    return 0 if not others else 5 if others == {"CANCELLED"} else 1


def _watch_group(group: Group, runs: Sequence[RunFolder], view: View) -> list[RunStatus]:
    ends, pace = Ends(), Pace()
    while True:
        answers = survey.of_runs(runs, max_age_s=ends.max_age_s)
        rows = [status_or_reason(run, answers) for run in runs]
        done, total = sum(row.step for row in rows), sum(row.steps or 0 for row in rows)
        # How many runs are in which state says more than any one state of the group.
        shown = Shown(
            name=group.name, done=done, total=total or 1, state="", phase=states(rows), remark=answers.remark or ""
        )
        view.show(pace.of(shown))
        for row in rows if shows_bars() and len(rows) <= _MOST_BARS else ():
            view.show(shown_of(row, name=f"  {row.name}"))
        is_finished = all(row.state == "FINISHED" for row in rows)
        if _is_over(ends, answers, all(row.state in OVER for row in rows), is_finished=is_finished):
            return rows


def _is_over(ends: Ends, answers: Answers, seems_over: bool, *, is_finished: bool) -> bool:
    """Whether to believe that all is over, after a pause if not.

    A job that is about to return to the queue looks over for a moment.
    """
    ends.look(seems_over, answers, is_sure=is_finished)
    asked = [clusters.find(name) for name in answers.surveys if name in clusters.CLUSTERS]
    if is_finished or ends.seen >= max((cluster.looks_to_believe_an_end for cluster in asked), default=1):
        return True
    time.sleep(max((cluster.poll_s for cluster in asked), default=0.4))
    return False
