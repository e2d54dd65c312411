"""`--follow`: the progress of runs, or of sharded work, until they end, then what became of
them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import typer
from rich.progress import Task
from rich.text import Text

from cld_core import metrics as registry
from cld_core.evaluate.statistics import Statistics
from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation, Sweep
from cld_core.run.groups import Group
from cld_core.run.state import OVER, DividedFacts, state_of
from cld_core.run.work import Work
from cldctl import clusters
from cldctl.evals.results import rows as sweep_rows
from cldctl.runs import sharded, survey
from cldctl.runs.selection import command
from cldctl.runs.status import STARTING, WAITING, RunStatus, status_or_reason

from .console import Bars, duration, err, number, out, say_next, shortened
from .evaluations import by_step, evaluations, remarks, say_files, statuses_of, sweep_table
from .runs import group_details, states
from .tables import STYLES, state_text

# Of more runs of a group, and without a terminal, the line of the group alone is shown.
_MOST_BARS = 12
# A file gets a line about what gets on after so many seconds, or after this part of it, whichever
# is sooner.
EVERY_S, EVERY_PART = 10.0, 0.05
# Columns of a name; those that a name, a bar and a count need, and each other fact.
_NAME, _LEAST, _FACT = 20, 50, 25


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


class View(Bars):
    """A context in which the progress of several things is shown on stderr."""

    def __init__(self) -> None:
        super().__init__(is_transient=False)
        # A bar for each thing, with the field ``first``: how far it was when it was shown first.
        self._bars: dict[str, Task] = {}
        # The newest line about each thing, when it was written, and the phases of its state that
        # have one.
        self._lines: dict[str, tuple[Shown, float, set[str]]] = {}

    def show(self, shown: Shown, *, is_paced: bool = False) -> None:
        """Show how far something is; of the same name, instead of what was shown before.

        Args:
            is_paced: it does not report its rate and times, which follow from what was shown first.
        """
        if shown.name not in self._bars:
            self.add_task("", head=Text(), known="", first=shown.done)
            self._bars[shown.name] = self.tasks[-1]
        bar = self._bars[shown.name]
        self.update(bar.id, completed=shown.done, total=shown.total or 1)
        if is_paced:
            shown = replace(shown, elapsed_s=bar.elapsed)
            # Of the whole time: rows come in bursts, and what stands still gets slower.
            if (gained := shown.done - bar.fields["first"]) > 0 and bar.elapsed:
                rate = gained / bar.elapsed
                left_s = max(0, shown.total - shown.done) / rate
                shown = replace(shown, facts=[*shown.facts, f"{number(rate, 3)}/s"], left_s=left_s)
        if self.disable:
            self._print(shown)
        head = Text.assemble((shortened(shown.name, _NAME), "bold"), "  ", no_wrap=True)
        head.append(shown.phase or shown.state, STYLES.get(shown.state, ""))
        known = [shown.counted, shown.remark] if shown.remark else [shown.counted, *shown.facts]
        known += [] if shown.elapsed_s is None else [f"{duration(shown.elapsed_s)} elapsed"]
        known = known[: 1 + bool(shown.remark) + max(err.width - _LEAST, 0) // _FACT]
        known += [] if shown.left_s is None else [f"{duration(shown.left_s)} left"]
        self.update(bar.id, head=head, known="  ".join(known), refresh=True)

    def _print(self, shown: Shown) -> None:
        """A line for a file, if it is time for one."""
        now = time.monotonic()
        last, when, phases = self._lines.get(shown.name, (shown, now, set()))
        if (shown.state, bool(shown.remark)) != (last.state, bool(last.remark)):
            phases = set()
        # The phase of a group counts its states.
        done = shown.done - last.done
        is_alive = "RUNNING" in f"{shown.state} {shown.phase}"
        is_due = (done > 0 or is_alive) and (
            now - when >= EVERY_S or done >= EVERY_PART * shown.total
        )
        if is_due or shown.phase not in phases:
            self._lines[shown.name] = (shown, now, phases | {shown.phase})
            what = " ".join(filter(None, (shown.name, shown.state, shown.phase)))
            eta = "" if shown.left_s is None else f"ETA {duration(shown.left_s)}"
            err.print(
                "; ".join(
                    filter(None, [f"{what}: {shown.counted}", *shown.facts, eta, shown.remark])
                )
            )


def follow_runs(
    runs: Sequence[RunFolder],
    evaluations: Mapping[str, Sequence[str]] | None = None,
    group: Group | None = None,
) -> int:
    """Show a run, or those of a group, until they end, then their chained evaluations.

    Args:
        evaluations: the names of those that wait for a run, by the run's name.

    Returns:
        The exit code of docs/cli.md.
    """
    rows = _watch_runs(runs, group)
    chained = evaluations or {}
    finished = [run for run, row in zip(runs, rows, strict=True) if row.state == "FINISHED"]
    works = [Evaluation(run.evals / name) for run in finished for name in chained.get(run.name, ())]
    if group is not None:
        ended = follow_group_evaluations(group, runs, works)
        code = exit_code(rows) or ended
        say_next(place_of(group), *next_of_group(group, rows, code, evaluated=bool(works)))
        return code
    (run,), (row,) = runs, rows
    follow_works_of(run, works)
    saved = "" if row.checkpoint_step is None else f", checkpoint of step {row.checkpoint_step}"
    say = err.print if finished else err.failure
    say(state_text(row.state), f"at step {row.step} of {row.steps}{saved}")
    if row.reason:
        say(row.reason)
    if finished:
        code = _results(works)
        say_next(
            run, f"sample {run.name}", f"report {run.name}" if works else f"eval {run.name} --elbo"
        )
        return code
    say_next(run, f"why {run.name}", f"logs {run.name}", f"resume {run.name}")
    return exit_code(rows)


def follow_evaluations(
    run: RunFolder, works: Sequence[Evaluation], sweep: Sweep | None = None
) -> int:
    """Show evaluations, or the cells of a sweep, until they end; returns the exit code."""
    follow_works_of(run, works, sweep.id if sweep is not None else None)
    code = _results(works, sweep)
    if code == 0:
        say_next(run, f"report {run.name}", f"status {run.name}")
    return code


def follow_group_evaluations(
    group: Group, runs: Sequence[RunFolder], works: Sequence[Evaluation]
) -> int:
    """Show evaluations of runs of a group until they end, then the group; returns the exit code."""
    follow_works_of(place_of(group), works, f"{len(works)} evaluations of {group.name}")
    answers = survey.of_runs(runs)
    out.print(group_details(group.name, [status_or_reason(run, answers) for run in runs]))
    return _incomplete([work for work in works if not work.is_done])


def follow_statistics(work: Statistics) -> int:
    """Show statistics until they are complete, and print the path of their file; returns the exit
    code."""
    follow_works_of(None, [work])
    if not work.is_done:
        err.failure(f"not complete; see {work.folder / 'logs'}, and run the same command again")
        return 1
    sharded.clear(work.folder)
    out.print(work.request.output, no_wrap=True)
    return 0


def _watch(
    place: RunFolder | None, look: Callable[[View, float], tuple[survey.Answers, set[str]]]
) -> None:
    """Watch until all is over: Ctrl-C ends the watching, not the jobs.

    Args:
        place: what `status` shows of it; None if that does not know it.
        look: shows how far it is, by answers of an age in seconds; returns these, and the states
            that were found.

    Raises:
        typer.Exit: somebody stops watching.
    """
    ends = survey.Ends()
    try:
        with View() as view:
            while not _is_over(ends, *look(view, ends.max_age_s)):
                pass
    except KeyboardInterrupt:
        if place is None:
            err.print("\nno longer watching; the job goes on. Run the same command again to watch")
        else:
            err.print("\nno longer watching; the jobs go on. Again:")
            err.print(f"  {command(f'status {place.name} --watch', place)}")
        raise typer.Exit(130) from None


def _watch_runs(runs: Sequence[RunFolder], group: Group | None) -> list[RunStatus]:
    """Show runs until all are over; those of a group below a line of the group."""
    rows: list[RunStatus] = []
    warned: set[str] = set()

    def look(view: View, max_age_s: float) -> tuple[survey.Answers, set[str]]:
        answers = survey.of_runs(runs, max_age_s=max_age_s)
        rows[:], remark = [status_or_reason(run, answers) for run in runs], answers.remark or ""
        if group is None:
            (row,) = rows
            if row.state == "RUNNING" and row.reason and not warned:
                warned.add(row.reason)
                err.print(row.reason, style="yellow")
            view.show(shown_of(row, remark=remark))
        else:
            done = sum(row.step for row in rows)
            total = sum(row.steps or 0 for row in rows) or 1
            # How many runs are in which state says more than any one state of the group.
            shown = Shown(
                name=group.name, done=done, total=total, state="", phase=states(rows), remark=remark
            )
            view.show(shown, is_paced=True)
            for row in () if view.disable or len(rows) > _MOST_BARS else rows:
                view.show(shown_of(row, name=f"  {row.name}"))
        return answers, {row.state for row in rows}

    _watch(runs[0] if group is None else place_of(group), look)
    return rows


def follow_works_of(
    place: RunFolder | None, works: Sequence[Work], title: str | None = None
) -> None:
    """Show sharded work until all of it is over; several share a line.

    Args:
        place: its run, or the place of its group; None if it belongs to none.

    Raises:
        typer.Exit: somebody stops watching.
    """
    name = title or (works[0].name if len(works) == 1 else f"{len(works)} evaluations")

    def look(view: View, max_age_s: float) -> tuple[survey.Answers, set[str]]:
        submitted = (event.job for work in works for event in work.ledger.history().submitted)
        answers = survey.ask(submitted, max_age_s=max_age_s)
        found = [
            state_of(work.ledger.history(), DividedFacts(work), answers).name for work in works
        ]
        done, total = map(sum, zip(*(work.rows_done() for work in works), strict=True))
        complete = (
            ""
            if len(works) == 1
            else f"; {found.count('FINISHED')} of {len(works)} evaluations complete"
        )
        state = next(
            state for state in ("RUNNING", "PENDING", "STOPPED", "FINISHED") if state in found
        )
        phase = _phase(works, state, done, total)
        unit = _unit(works) + complete
        remark = answers.remark or ""
        shown = Shown(
            name=name, done=done, total=total, state=state, phase=phase, unit=unit, remark=remark
        )
        view.show(shown, is_paced=True)
        return answers, set(found)

    if works:
        _watch(place, look)


def _is_over(ends: survey.Ends, answers: survey.Answers, found: set[str]) -> bool:
    """Whether to believe that all is over, by the states that were found, after a pause if not.

    A job that is about to return to the queue looks over for a moment.
    """
    is_sure = found <= {"FINISHED", "CANCELLED"}
    ends.look(found <= OVER, answers, is_sure=is_sure)
    known = [clusters.find(name) for name in answers.surveys if name in clusters.CLUSTERS]
    if found <= {"FINISHED"} or ends.seen >= max(
        (it.looks_to_believe_an_end for it in known), default=1
    ):
        return True
    time.sleep(max((it.question_s for it in known), default=0.4))
    return False


def shown_of(row: RunStatus, name: str | None = None, remark: str = "") -> Shown:
    """How far a run is."""
    last = row.attempts[-1] if row.attempts else {"started": row.created, "ended": row.created}
    since = (
        last["started"]
        if row.state == "RUNNING"
        else last["ended"]
        if row.phase == WAITING
        else None
    )
    facts = [] if row.shown_loss is None else [f"loss {number(row.shown_loss)}"]
    facts += [] if row.steps_per_s is None else [f"{number(row.steps_per_s, 3)} steps/s"]
    return Shown(
        name=name or row.name,
        done=row.step,
        total=row.steps or 1,
        state=row.state,
        phase=row.phase or "",
        facts=facts,
        elapsed_s=None if since is None else max(time.time() - since, 0.0),
        left_s=row.eta_s,
        remark=remark,
    )


def _phase(works: Sequence[Work], state: str, done: int, total: int) -> str:
    """What sharded work does that is in this state."""
    if state == "PENDING":
        return WAITING
    if state != "RUNNING":
        return ""
    if done >= total:
        return "merging"
    if done == 0 and all(work.moved_at() is None for work in works):
        return STARTING
    draws = all(
        isinstance(work, Evaluation) and registry.draws_samples(work.request.metrics)
        for work in works
    )
    return "drawing samples" if draws else works[0].doing


def _unit(works: Sequence[Work]) -> str:
    """What sharded work is counted in."""
    evaluated = [work for work in works if isinstance(work, Evaluation)]
    if len(evaluated) < len(works):
        return works[0].unit
    over = {registry.ROWS[kind].over for work in evaluated for kind in work.request.sizes}
    return " and ".join(sorted(over, reverse=True))


def _results(works: Sequence[Evaluation], sweep: Sweep | None = None) -> int:
    """Print the results of evaluations; 1 if one has none."""
    rows = statuses_of(works)
    missing = [work for work, row in zip(works, rows, strict=True) if row["state"] != "FINISHED"]
    if sweep is not None:
        run = works[0].run
        out.print(sweep_table(sweep, sweep_rows(run, sweep), {row["id"]: row for row in rows}))
        if not missing:
            say_files(run, sweep)
    elif rows:
        out.print(evaluations(rows))
        for table in by_step(rows):
            out.print(table)
    for line in remarks(rows):
        err.print(line)
    return _incomplete(missing)


def _incomplete(works: Sequence[Evaluation]) -> int:
    """Say which evaluations are not complete, and where to see why; the exit code."""
    for work in works:
        err.failure(f"evaluation {work.name} of {work.run.name} is not complete; see")
        err.failure(f"  {command(f'logs {work.run.name} --eval {work.name}', work.run)}")
    return int(bool(works))


def place_of(group: Group) -> RunFolder:
    """Beside the runs of a group, so that commands about it find them."""
    return RunFolder(group.root / group.name)


def next_of_group(
    group: Group, rows: Sequence[RunStatus], code: int, *, evaluated: bool
) -> list[str]:
    """What to type next about a group that ended with this exit code, without "cldctl "."""
    if code == 0:
        return [f"compare {group.name}" if evaluated else f"eval {group.name} --elbo"]
    failed = [f"why {row.name}" for row in rows if row.state not in ("FINISHED", "CANCELLED")]
    return [*failed[:1], f"resume {group.name}"]


def exit_code(rows: Sequence[RunStatus]) -> int:
    """1 if a run failed or stopped, 5 if some were cancelled and the others are finished, else
    0."""
    others = {row.state for row in rows} - {"FINISHED"}
    return 0 if not others else 5 if others == {"CANCELLED"} else 1
