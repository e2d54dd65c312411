"""Everything about the run that is selected, from its files alone: no scheduler is asked."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cld_core.evaluation.evaluation import evaluations_of
from cld_core.run import RunFolder
from cld_core.run.events import Requeued
from cld_core.run.history import History
from cld_core.run.timeline import Stretch
from cldctl import clusters
from cldctl.clusters.records import Waiting
from cldctl.runs import usage
from cldctl.runs.failing import with_culprits
from cldctl.runs.state import WAITS
from cldctl.runs.status import RunStatus
from cldctl.runs.survey import Answers
from cldctl.runs.tried import Trial

from .shards import Shards, shards_of


@dataclass(frozen=True, kw_only=True)
class Detail:
    """A run at one moment.

    Attributes:
        attempts: oldest first.
        waits_since: when the job that waits now was put into the queue, seconds since 1970; None if none waits.
        waiting: why that job waits, by what the scheduler said last.
        evaluations: oldest first.
        problems: what could not be read, a line each.
    """

    row: RunStatus
    attempts: Sequence[Stretch] = ()
    waits_since: float | None = None
    waiting: Waiting | None = None
    evaluations: Sequence[Shards] = ()
    problems: Sequence[str] = ()


def detail_of(row: RunStatus, answers: Answers) -> Detail:
    """What the files of a run say; whatever cannot be read is in `Detail.problems`. It never raises."""
    if not row.is_readable:
        return Detail(row=row)
    run, trial = RunFolder(row.path), Trial(list(row.problems))
    tried = trial.of

    if not run.exists:
        return Detail(row=row, problems=["the run is gone: its folder was removed or renamed"])
    progress, checkpoints = run.progress(), run.checkpoint_steps()
    empty = History()
    history = tried(
        "attempts.jsonl", lambda: with_culprits(run.ledger.history().with_progress(progress, checkpoints)), empty
    )
    told = tried(
        "the attempts",
        lambda: list(usage.told_by(history, progress, checkpoints, alive=row.state == "RUNNING").attempts),
        list[Stretch](),
    )
    return Detail(
        row=row,
        attempts=told,
        waits_since=_waits_since(row, history),
        waiting=tried("why its job waits", lambda: _waiting(row, history, answers), None),
        evaluations=tried("the evaluations", lambda: _evaluations(run, row, answers), list[Shards]()),
        problems=trial.problems,
    )


def _waits_since(row: RunStatus, history: History) -> float | None:
    """When the job of a run that waits was last put into the queue."""
    if row.state not in WAITS:
        return None
    times = [event.time for event in history.submitted if event.job.job_id == row.job_id]
    times += [event.time for event in history.told if isinstance(event, Requeued) and event.job_id == row.job_id]
    last = history.last
    if last is not None and last.ended is not None:
        times.append(last.ended)
    return min(max(times), time.time()) if times else None


def _waiting(row: RunStatus, history: History, answers: Answers) -> Waiting | None:
    """Why the current job waits, in plain words."""
    current = history.current(lambda job: answers.of(job).is_gone)
    if row.state not in WAITS or current is None or current.job.cluster not in clusters.CLUSTERS:
        return None
    seen = answers.of(current.job)
    if seen.phase != "pending":
        return None
    return clusters.find(current.job.cluster).explain_wait(current.job, seen)


def _evaluations(run: RunFolder, row: RunStatus, answers: Answers) -> list[Shards]:
    entries = {entry["id"]: entry for entry in row.evals}
    works = [work for work in evaluations_of(run) if work.name in entries]
    return [shards_of(work, entries[work.name], answers) for work in works]
