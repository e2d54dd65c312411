"""`--follow`: the progress of a run, or of sharded work, until it ends."""

import time
from collections.abc import Sequence
from typing import Any

from cld_core.evaluation import registry
from cld_core.evaluation.evaluation import Evaluation
from cld_core.evaluation.stats_work import Statistics
from cld_core.evaluation.sweeps import Sweep
from cld_core.run import RunFolder
from cld_core.shards import Work
from cldctl import clusters
from cldctl.evals.table import rows as sweep_rows
from cldctl.evals.table import write_finished
from cldctl.hints import command
from cldctl.runs import sharded, survey
from cldctl.runs.ends import Ends
from cldctl.runs.phases import STARTING, WAITING
from cldctl.runs.sharded_state import work_state
from cldctl.runs.state import OVER
from cldctl.runs.status import RunStatus, evaluation_status, status_of

from .console import err, out
from .details import evaluations, remarks
from .format import number
from .pace import Pace
from .sweeps import by_step, sweep_table
from .tables import state_text
from .view import Shown, View


def follow_run(run: RunFolder, names: Sequence[str] = ()) -> int:
    """Show a run until it ends, then its chained evaluations; returns the exit code of docs/cli.md."""
    try:
        with View() as view:
            row = _watch_run(run, view)
            if row.state == "FINISHED":
                _watch(_evaluations(run, names), view)
    except KeyboardInterrupt:
        return _interrupted(f"status {run.name} --watch", run)
    saved = "" if row.checkpoint_step is None else f", checkpoint of step {row.checkpoint_step}"
    say = err.print if row.state == "FINISHED" else err.failure
    say(state_text(row.state), f"at step {row.step} of {row.steps}{saved}")
    if row.reason:
        say(row.reason, markup=False)
    if row.state == "FINISHED":
        code = _results(run, names)
        _next(run, f"sample {run.name}", f"report {run.name}" if names else f"eval {run.name} --elbo")
        return code
    _next(run, f"why {run.name}", f"logs {run.name}", f"resume {run.name}")
    return 5 if row.state == "CANCELLED" else 1


def follow_evaluations(run: RunFolder, names: Sequence[str], sweep: Sweep | None = None) -> int:
    """Show evaluations, or the cells of a sweep, until they end; returns the exit code."""
    try:
        with View() as view:
            _watch(_evaluations(run, names), view, sweep.id if sweep is not None else None)
    except KeyboardInterrupt:
        return _interrupted(f"status {run.name} --watch", run)
    code = _results(run, names, sweep)
    if code == 0:
        _next(run, f"report {run.name}", f"status {run.name}")
    return code


def follow_statistics(work: Statistics) -> int:
    """Show statistics until they are complete, and print the path of their file; returns the exit code."""
    try:
        with View() as view:
            _watch([work], view)
    except KeyboardInterrupt:
        err.print("\nno longer watching; the job goes on. Run the same command again to watch")
        return 130
    if not work.request.is_done:
        err.failure(f"not complete; see {work.folder / 'logs'}, and run the same command again")
        return 1
    sharded.clear(work.folder)
    out.print(work.request.output, markup=False, no_wrap=True)
    return 0


def follow_works(works: Sequence[Work], title: str) -> None:
    """Show sharded work of several runs until it ends."""
    with View() as view:
        _watch(works, view, title)


def follow_works_of(run: RunFolder, works: Sequence[Work], title: str) -> int:
    """Show sharded work of a run until it ends; returns the exit code, 130 if somebody stops watching."""
    try:
        follow_works(works, title)
    except KeyboardInterrupt:
        return _interrupted(f"status {run.name}", run)
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
        text = f"evaluation {name} is not complete; see `{command(f'logs {run.name} --eval {name}', run)}`"
        err.failure(text)
    return 1 if missing else 0


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
    err.print("next:")
    for text in commands:
        err.print(f"  {command(text, run)}", markup=False)


def _interrupted(text: str, run: RunFolder) -> int:
    err.print(f"\nno longer watching; the job goes on. Again: {command(text, run)}", markup=False)
    return 130


def _watch_run(run: RunFolder, view: View) -> RunStatus:
    ends, warned = Ends(), False
    while True:
        answers = survey.of_runs([run], max_age_s=ends.max_age_s)
        row = status_of(run, answers)
        if row.state == "RUNNING" and row.reason and not warned:
            warned = True
            err.print(row.reason, style="yellow", markup=False)
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


def _watch(works: Sequence[Work], view: View, title: str | None = None) -> None:
    """Until all are over; several share a line."""
    if not works:
        return
    title = title or (works[0].name if len(works) == 1 else f"{len(works)} evaluations")
    ends, pace = Ends(), Pace()
    while True:
        submitted = (event.job for work in works for event in work.ledger.history().submitted)
        answers = survey.ask(submitted, max_age_s=ends.max_age_s)
        states = [work_state(work, answers) for work in works]
        done, total = map(sum, zip(*(work.rows_done() for work in works), strict=True))
        finished = "" if len(works) == 1 else f"; {states.count('FINISHED')} of {len(works)} evaluations complete"
        active = [state for state in ("RUNNING", "PENDING") if state in states]
        state = active[0] if active else "FINISHED" if set(states) == {"FINISHED"} else "STOPPED"
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
        where = [clusters.find(name) for name in answers.surveys if name in clusters.CLUSTERS]
        # A task that is about to return to the queue looks over for a moment.
        ends.look(not active, answers, is_sure=state == "FINISHED")
        if state == "FINISHED" or ends.seen >= max((cluster.looks_to_believe_an_end for cluster in where), default=1):
            return
        time.sleep(max((cluster.poll_s for cluster in where), default=0.4))
