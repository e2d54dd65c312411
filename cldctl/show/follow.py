"""`--follow`: the progress of runs and of sharded work until they end, then their outcome."""

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

    def show(self, shown: Shown, *, is_paced: bool = False) -> None:
        """Show progress; it replaces that of the same name.

        Args:
            is_paced: estimate rate and times from the progress since it was shown first.
        """
        if shown.name not in self._bars:
            self.add_task("", head=Text(), detail="", first=shown.done)
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
        detail = "  ".join(filter(None, [shown.counted, shown.remark, *facts, left]))
        self.update(bar.id, head=head, detail=detail, refresh=True)

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


def follow_runs(
    runs: Sequence[RunFolder],
    evaluations: Mapping[str, Sequence[str]] | None = None,
    group: Group | None = None,
) -> int:
    """Show a run, or the runs of a group, until they end, then the evaluations that follow them.

    Args:
        evaluations: the names of the evaluations that follow a run, by the name of the run.

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
    (run,) = runs
    (row,) = rows
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
    """Show evaluations, or the cells of a sweep, until they end; return the exit code."""
    follow_works_of(run, works, sweep.id if sweep is not None else None)
    code = _results(works, sweep)
    if code == 0:
        say_next(run, f"report {run.name}", f"status {run.name}")
    return code


def follow_group_evaluations(
    group: Group, runs: Sequence[RunFolder], works: Sequence[Evaluation]
) -> int:
    """Show evaluations of runs of a group until they end, then the group; return the exit code."""
    follow_works_of(place_of(group), works, f"{len(works)} evaluations of {group.name}")
    answers = survey.of_runs(runs)
    out.print(group_details(group.name, [status_or_reason(run, answers) for run in runs]))
    return _incomplete([work for work in works if not work.is_done])


def follow_statistics(work: Statistics) -> int:
    """Show statistics until they are complete, and print the path of their file.

    Returns:
        The exit code.
    """
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
    """Watch until all is over. Ctrl-C ends the watching, not the jobs.

    Args:
        place: the run or group that `status` shows; None if there is none.
        look: shows the progress by answers of at most an age in seconds; returns the answers, and
            the states that they tell.

    Raises:
        typer.Exit: the watching was interrupted.
    """
    ends = survey.EndDetector()
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
        rows[:] = [status_or_reason(run, answers) for run in runs]
        remark = answers.remark or ""
        if group is None:
            (row,) = rows
            if row.state == "RUNNING" and row.reason and not warned:
                warned.add(row.reason)
                err.print(row.reason, style="yellow")
            view.show(shown_of(row, remark=remark))
        else:
            shown = Shown(
                name=group.name,
                done=sum(row.step for row in rows),
                total=sum(row.steps or 0 for row in rows) or 1,
                state="",  # A group has none: its phase counts the states of its runs.
                phase=states(rows),
                remark=remark,
            )
            view.show(shown, is_paced=True)
            if not view.disable and len(rows) <= _MOST_BARS:
                for row in rows:
                    view.show(shown_of(row, name=f"  {row.name}"))
        return answers, {row.state for row in rows}

    _watch(runs[0] if group is None else place_of(group), look)
    return rows


def follow_works_of(
    place: RunFolder | None, works: Sequence[Work], title: str | None = None
) -> None:
    """Show sharded work until all of it is over; several works share a line.

    Args:
        place: its run, or the place of its group; None if it belongs to none.

    Raises:
        typer.Exit: the watching was interrupted.
    """
    name = title or (works[0].name if len(works) == 1 else f"{len(works)} evaluations")

    def look(view: View, max_age_s: float) -> tuple[survey.Answers, set[str]]:
        submitted = (event.job for work in works for event in work.ledger.history().submitted)
        answers = survey.ask(submitted, max_age_s=max_age_s)
        found = [
            state_of(work.ledger.history(), DividedFacts(work), answers).name for work in works
        ]
        done, total = map(sum, zip(*(work.rows_done() for work in works), strict=True))
        unit = _unit(works)
        if len(works) > 1:
            unit += f"; {found.count('FINISHED')} of {len(works)} evaluations complete"
        order = ("RUNNING", "PENDING", "STOPPED", "FINISHED")
        state = next(state for state in order if state in found)
        shown = Shown(
            name=name,
            done=done,
            total=total,
            state=state,
            phase=_phase(works, state, done, total),
            unit=unit,
            remark=answers.remark or "",
        )
        view.show(shown, is_paced=True)
        return answers, set(found)

    if works:
        _watch(place, look)


def _is_over(ends: survey.EndDetector, answers: survey.Answers, found: set[str]) -> bool:
    """Whether all is over, by the states of one look; pauses before the next look if not.

    A job that returns to the queue looks over for a moment, so that several looks must agree.
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
    """The progress of a run."""
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
    """The activity of sharded work in a state, in words."""
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
    """The unit in which sharded work is counted."""
    evaluated = [work for work in works if isinstance(work, Evaluation)]
    if len(evaluated) < len(works):
        return works[0].unit
    over = {registry.ROWS[kind].over for work in evaluated for kind in work.request.sizes}
    return " and ".join(sorted(over, reverse=True))


def _results(works: Sequence[Evaluation], sweep: Sweep | None = None) -> int:
    """Print the results of evaluations; return the exit code, 1 if one is not complete."""
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
    """Print which evaluations are not complete, and where to see why; return the exit code."""
    for work in works:
        err.failure(f"evaluation {work.name} of {work.run.name} is not complete; see")
        err.failure(f"  {command(f'logs {work.run.name} --eval {work.name}', work.run)}")
    return int(bool(works))


def place_of(group: Group) -> RunFolder:
    """A folder beside the runs of a group, so that suggested commands find them."""
    return RunFolder(group.root / group.name)


def next_of_group(
    group: Group, rows: Sequence[RunStatus], code: int, *, evaluated: bool
) -> list[str]:
    """Commands to type next after a group has ended with an exit code, without "cldctl "."""
    if code == 0:
        return [f"compare {group.name}" if evaluated else f"eval {group.name} --elbo"]
    failed = [f"why {row.name}" for row in rows if row.state not in ("FINISHED", "CANCELLED")]
    return [*failed[:1], f"resume {group.name}"]


def exit_code(rows: Sequence[RunStatus]) -> int:
    """0 if all runs are finished, 5 if the others were cancelled, 1 if a run failed or stopped."""
    others = {row.state for row in rows} - {"FINISHED"}
    if not others:
        return 0
    return 5 if others == {"CANCELLED"} else 1
