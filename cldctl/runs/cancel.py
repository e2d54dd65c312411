"""Ending runs and their evaluations; a run saves a checkpoint first."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cld_core.errors import UsageError
from cld_core.run import RunFolder
from cld_core.run.events import Cancelled, JobRef
from cld_core.run.lease import local_holder
from cldctl import clusters
from cldctl.clusters import this_machine
from cldctl.clusters.base import SchedulerAway
from cldctl.jobs.evaluations import evaluations_of

from . import survey
from .status import status_of
from .survey import Answers

# Seconds that cancelled jobs are given to save and end.
GRACE_S = 60.0
POLL_S = 0.5


@dataclass
class Ending:
    """A run whose jobs were asked to end.

    Attributes:
        jobs: those of it and of its evaluations that were alive.
        trains: whether one of them trains the run, rather than evaluates it.
        process: the id of a process on this machine that was ended, which no job of cldctl explains.
        state: what the run was, if nothing was alive.
    """

    run: RunFolder
    jobs: tuple[JobRef, ...] = ()
    trains: bool = False
    process: int | None = None
    state: str = ""
    is_over: bool = False


def cancel(runs: Sequence[RunFolder]) -> list[Ending]:
    """Ask everything of several runs to end, all at the same time; `wait` for it.

    Raises:
        SchedulerAway: a cluster does not answer; nothing was cancelled.
        UsageError: a job was started on another machine, where it has to be cancelled; nothing was cancelled.
        SchedulerRefused: a cluster refused.
    """
    answers = survey.of_runs(runs)
    if answers.problem is not None:
        raise SchedulerAway(f"{answers.problem}. Nothing was cancelled; try again when it answers.")
    alive = [(run, _alive(run, answers)) for run in runs]
    endings = [_ask(run, jobs, answers) for run, jobs in alive]
    for name, jobs in _by_cluster(ending.jobs for ending in endings).items():
        clusters.find(name).cancel(jobs)
    return endings


def wait(endings: Sequence[Ending], over: Callable[[Ending], None], grace_s: float = GRACE_S) -> None:
    """Wait for cancelled jobs to end, and kill what is left after ``grace_s`` seconds.

    Args:
        over: called for each run, as soon as its jobs have ended or the time is up.
    """
    waiting = list(endings)
    deadline = time.monotonic() + grace_s
    while waiting:
        answers = survey.ask(job for ending in waiting for job in ending.jobs)
        is_late = time.monotonic() > deadline
        for ending in list(waiting):
            ending.is_over = all(answers.of(job).is_gone for job in ending.jobs)
            if ending.is_over or is_late:
                waiting.remove(ending)
                if not ending.is_over:
                    for name, jobs in _by_cluster([ending.jobs]).items():
                        clusters.find(name).kill(jobs)
                over(ending)
        if waiting:
            time.sleep(POLL_S)


def _alive(run: RunFolder, answers: Answers) -> list[JobRef]:
    jobs = {job.job_id: job for job, _ in survey.jobs_of(run) if not answers.of(job).is_gone}
    for job in jobs.values():
        seen = answers.of(job)
        if seen.phase == "unknown":
            raise UsageError(f"{run.name} was {seen.reason or 'started elsewhere'}. Cancel it there.")
    return list(jobs.values())


def _ask(run: RunFolder, jobs: Sequence[JobRef], answers: Answers) -> Ending:
    """Note in the ledgers what is cancelled, and end a process that no job explains."""
    if not jobs:
        holder = local_holder(run.leases)
        if holder is None:
            return Ending(run, state=status_of(run, answers).state.lower())
        run.ledger.append(Cancelled(job_id=holder["job_id"]))
        this_machine.end(holder["pid"], GRACE_S)
        return Ending(run, process=holder["pid"])
    names = {job.job_id for job in jobs}
    training = names & {event.job.job_id for event in run.ledger.history().jobs}
    for job_id in sorted(training):
        run.ledger.append(Cancelled(job_id=job_id))
    for work in evaluations_of(run):
        for job_id in sorted(names & {event.job.job_id for event in work.ledger.history().jobs}):
            work.ledger.append(Cancelled(job_id=job_id))
    return Ending(run, tuple(jobs), trains=bool(training))


def _by_cluster(groups: Iterable[Iterable[JobRef]]) -> dict[str, list[JobRef]]:
    grouped: dict[str, list[JobRef]] = {}
    for jobs in groups:
        for job in jobs:
            grouped.setdefault(job.cluster, []).append(job)
    return grouped
