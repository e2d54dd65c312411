"""`submit --sweep --follow`: the progress of a group of runs until all have ended."""

import time
from collections.abc import Mapping, Sequence

from cld_core.evaluation.evaluation import Evaluation
from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cldctl import clusters
from cldctl.hints import command
from cldctl.runs import survey
from cldctl.runs.state import OVER
from cldctl.runs.status import RunStatus, status_or_reason

from .console import err, out, shows_bars
from .follow import follow_works, shown_of
from .groups import group_details, states
from .pace import Pace
from .view import Shown, View

# Of more runs, and without a terminal, the line of the group alone is shown.
_MOST_BARS = 12


def follow_group(group: Group, runs: Sequence[RunFolder], evaluations: Mapping[str, Sequence[str]]) -> int:
    """Show the runs of a group until they end, then their chained evaluations; returns the exit code of docs/cli.md.

    Args:
        evaluations: the names of those that wait for a run, by the run's name.
    """
    try:
        with View() as view:
            rows = _watch(group, runs, view)
    except KeyboardInterrupt:
        return _interrupted(group)
    finished = {row.name for row in rows if row.state == "FINISHED"}
    going_on = [run for run in runs if run.name in finished]
    works = [Evaluation(run.evals / name) for run in going_on for name in evaluations.get(run.name, ())]
    ended = follow_group_evaluations(group, runs, works)
    code = ended if ended == 130 else exit_code(rows) or ended
    if code != 130:
        err.print("next:")
        for text in _next(group, rows, code, evaluated=bool(works)):
            err.print(f"  {command(text, RunFolder(group.root / group.name))}", markup=False)
    return code


def _next(group: Group, rows: Sequence[RunStatus], code: int, *, evaluated: bool) -> list[str]:
    """What to type next, without "cldctl "."""
    if code == 0:
        return [f"compare {group.name}" if evaluated else f"eval {group.name} --elbo"]
    failed = next((row.name for row in rows if row.state not in ("FINISHED", "CANCELLED")), None)
    return [*([] if failed is None else [f"why {failed}"]), f"resume {group.name}"]


def follow_group_evaluations(group: Group, runs: Sequence[RunFolder], works: Sequence[Evaluation]) -> int:
    """Show evaluations of runs of a group until they end, then the group; returns the exit code."""
    try:
        follow_works(works, f"{len(works)} evaluations of {group.name}")
    except KeyboardInterrupt:
        return _interrupted(group)
    answers = survey.of_runs(runs)
    out.print(group_details(group.name, [status_or_reason(run, answers) for run in runs]))
    missing = [work for work in works if not work.is_done]
    for work in missing:
        see = command(f"logs {work.run.name} --eval {work.name}", work.run)
        err.failure(f"evaluation {work.name} of {work.run.name} is not complete; see `{see}`")
    return int(bool(missing))


def _interrupted(group: Group) -> int:
    again = command(f"status {group.name} --watch", RunFolder(group.root / group.name))
    err.print(f"\nno longer watching; the jobs go on. Again: {again}", markup=False)
    return 130


def exit_code(rows: Sequence[RunStatus]) -> int:
    """1 if a run failed or stopped, 5 if some were cancelled and the others are finished, else 0."""
    others = {row.state for row in rows} - {"FINISHED"}
    return 0 if not others else 5 if others == {"CANCELLED"} else 1


def _watch(group: Group, runs: Sequence[RunFolder], view: View) -> list[RunStatus]:
    ends_seen, pace = 0, Pace()
    while True:
        answers = survey.of_runs(runs)
        rows = [status_or_reason(run, answers) for run in runs]
        done, total = sum(row.step for row in rows), sum(row.steps or 0 for row in rows)
        # How many runs are in which state says more than any one state of the group.
        shown = Shown(
            name=group.name, done=done, total=total or 1, state="", phase=states(rows), remark=answers.remark or ""
        )
        view.show(pace.of(shown))
        for row in rows if shows_bars() and len(rows) <= _MOST_BARS else ():
            view.show(shown_of(row, name=f"  {row.name}"))
        where = [clusters.find(name) for name in answers.surveys if name in clusters.CLUSTERS]
        # A job that is about to return to the queue looks over for a moment.
        ends_seen = ends_seen + 1 if all(row.state in OVER for row in rows) else 0
        is_finished = all(row.state == "FINISHED" for row in rows)
        if is_finished or ends_seen >= max((cluster.looks_to_believe_an_end for cluster in where), default=1):
            return rows
        time.sleep(max((cluster.poll_s for cluster in where), default=0.4))
