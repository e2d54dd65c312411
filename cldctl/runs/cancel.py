"""Ending runs and their evaluations; a run saves a checkpoint first."""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cld_core.errors import CldError, UsageError
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.events import Cancelled, Event, JobRef, Refused
from cld_core.run.groups import Group
from cld_core.run.lease import local_holder
from cld_core.run.work import Training, Work, works_of
from cld_core.sanitize import one_line
from cldctl import clusters
from cldctl.clusters import local_processes
from cldctl.clusters.base import SchedulerAway, SchedulerRefused

from . import survey
from .start import or_warned
from .status import status_or_reason
from .survey import Answers, EndDetector, by_cluster, started_works

# Seconds that cancelled jobs are given to save and end.
GRACE_S = 60.0
# Seconds in which a job that was killed is gone.
_KILLED_S = 5.0
# Seconds between two looks at the files of the runs.
POLL_S = 0.5
# A launcher that must not be polled often is polled after pauses that grow by this factor, up to
# this many seconds.
_SLOWER = 1.5
_LONGEST_S = 10.0
# A message names at most so many works.
_MOST_NAMES = 4


@dataclass
class Ending:
    """A run whose jobs are being cancelled.

    Attributes:
        jobs: the living jobs of the run, its evaluations and its tunings.
        remark: what was found instead, if no job was alive.
        problem: why it could not be cancelled, in full or in part.
        is_over: whether all its jobs have ended.
        detector: counts the consecutive surveys in which its jobs were gone.
    """

    run: RunFolder
    jobs: tuple[JobRef, ...] = ()
    remark: str = ""
    problem: CldError | None = None
    is_over: bool = False
    detector: EndDetector = field(default_factory=EndDetector)

    @property
    def works(self) -> list[Work]:
        """What its jobs compute."""
        ids = {job.job_id for job in self.jobs}
        return [work for work in _works_in(self.run) if ids & _job_ids(work)]

    @property
    def trains(self) -> bool:
        """Whether one of its jobs trains the run, rather than evaluates it."""
        return any(isinstance(work, Training) for work in self.works)

    def leave(self, jobs: Collection[JobRef], problem: CldError) -> None:
        """Do not wait for jobs that were not cancelled."""
        _note(self.run, jobs, refusal=str(problem))
        self.jobs = tuple(job for job in self.jobs if job not in jobs)
        if self.problem is None:
            self.problem = problem
        else:
            self.problem = type(problem)(f"{self.problem}; {problem}")


def outcome(ending: Ending) -> str:
    """How the jobs of a run ended, or that they have not yet, in one line.

    `Ending.problem` has the jobs that could not be cancelled.
    """
    run = ending.run
    if not ending.jobs:
        return f"{run.name}: {ending.problem or ending.remark}"
    if not ending.is_over:
        return (
            f"{run.name}: asked to end; it saves first. "
            f"`cldctl status {run.name}` shows when it has."
        )
    if not ending.trains:
        return f"{run.name}: {_works_ended(ending.works)}"
    steps = run.steps_to_continue_from()
    is_finished = run.ledger.history().cause == "finished"
    how = "had finished before it could be cancelled" if is_finished else "cancelled"
    last = f"step {steps[-1]}" if steps else "none"
    return f"{run.name}: {how}; last checkpoint: {last}"


def _works_ended(works: Sequence[Work]) -> str:
    """How evaluations and tunings ended; one may have finished before it was cancelled."""
    finished = [work for work in works if work.is_done]
    cancelled = [work for work in works if not work.is_done]
    outcomes = []
    if finished:
        outcomes.append(f"{_called(finished)} had finished already")
    if cancelled:
        outcomes.append(f"{_called(cancelled)} {'is' if len(cancelled) == 1 else 'are'} cancelled")
    return "; ".join(outcomes) or "cancelled"


def _works_in(run: RunFolder) -> list[Work]:
    return [Training(run.path), *works_of(run)]


def _job_ids(work: Work) -> set[str]:
    return {event.job.job_id for event in work.history().submitted}


def _jobs_of(endings: Iterable[Ending]) -> list[JobRef]:
    return [job for ending in endings for job in ending.jobs]


def _called(works: Sequence[Work]) -> str:
    """The kinds of works in words, with their names, or with their number if they are many."""
    kinds = " and ".join(sorted({f"{work.called}s" for work in works}))
    if len(works) > _MOST_NAMES:
        return f"{len(works)} {kinds}"
    if len(works) == 1:
        kinds = works[0].called
    return f"{kinds} {', '.join(work.name for work in works)}"


def waits_for(endings: Sequence[Ending]) -> str:
    """What `cancel` waits for, and for how long."""
    jobs = ", ".join(dict.fromkeys(job.job_id for job in _jobs_of(endings)))
    works = [work for ending in endings for work in ending.works]
    trains = any(isinstance(work, Training) for work in works)
    names = endings[0].run.name if len(endings) == 1 else f"{len(endings)} runs"
    if len(endings) == 1 and works and not trains:
        names = f"{_called(works)} of {names}"
    how = "save and end" if trains else "end"
    return f"waiting for {names} to {how} (job {one_line(jobs, 60)}), at most {GRACE_S:.0f} s"


def named_works(runs: Sequence[RunFolder], name: str) -> Sequence[Work]:
    """Return the evaluations and tunings of a run that ``--eval`` names.

    Raises:
        NotFoundError, UsageError: there is no such evaluation, or there are several runs.
    """
    if len(runs) != 1:
        raise UsageError(f"--eval goes with one run, not with {len(runs)}. Name one.")
    return started_works(runs[0], name)


def cancel(runs: Sequence[RunFolder], works: Collection[Work] = ()) -> list[Ending]:
    """Cancel all jobs of several runs at the same time; `wait` waits for their ends.

    A cluster that refuses, or a run that cannot be cancelled, does not keep the others from ending:
    see `Ending.problem`.

    Args:
        works: evaluations and tunings of a single run; if given, only these are cancelled.

    Raises:
        CldError: a run belongs to another user; nothing was cancelled.
        SchedulerAway: a cluster does not answer; nothing was cancelled.
        UsageError: a job was started on another machine, where it has to be cancelled; nothing was
            cancelled.
    """
    for run in runs:
        require_may_change(run.path, "Nothing was cancelled")
    answers = survey.of_runs(runs)
    polled = (cluster.name for cluster in answers.clusters)
    answers.require(polled, "Nothing was cancelled")
    endings = [_ending(run, answers, works) for run in runs]
    for name, jobs in by_cluster(_jobs_of(endings)).items():
        # Noted before they end, so that the ledger tells what their end means.
        for ending in endings:
            _note(ending.run, [job for job in ending.jobs if job.cluster == name])
        try:
            clusters.find(name).cancel(jobs)
        except SchedulerAway as error:
            for ending in endings:
                if unreached := [job for job in ending.jobs if job.cluster == name]:
                    ending.leave(unreached, error)
        except SchedulerRefused:
            _cancel_apart(endings, name, survey.ask(jobs))
    for ending in endings:
        if ending.jobs or ending.problem is not None:
            continue
        if works:
            names = ", ".join(work.name for work in works)
            how = "complete" if all(work.is_done for work in works) else "not complete"
            ending.remark = f"nothing is running ({names}: {how})"
        else:
            _end_process(ending, answers)
    return endings


def _cancel_apart(endings: Sequence[Ending], cluster: str, answers: Answers) -> None:
    """Cancel jobs of one folder of logs after the other, since a cluster refused to cancel all at
    once: some may have ended meanwhile."""
    for ending in endings:
        folders: dict[str, list[JobRef]] = {}
        for job in ending.jobs:
            if job.cluster == cluster and not answers.of(job).is_gone:
                folders.setdefault(job.logs, []).append(job)
        for jobs in folders.values():
            try:
                clusters.find(cluster).cancel(jobs)
            except (SchedulerRefused, SchedulerAway) as error:
                newest = survey.ask(jobs)
                if alive := [job for job in jobs if not newest.of(job).is_gone]:
                    ending.leave(alive, error)


def wait(
    endings: Sequence[Ending], over: Callable[[Ending], None], grace_s: float = GRACE_S
) -> None:
    """Wait for cancelled jobs to end, and kill what is left after ``grace_s`` seconds.

    Their launcher is polled when the ledger says that an attempt has ended, and otherwise after
    pauses that grow.

    Args:
        over: called for each run, as soon as its jobs have ended or the time is up.
    """
    waiting = list(endings)
    deadline = time.monotonic() + grace_s
    is_killed = False
    longest_s = 0.0
    while waiting:
        ended = _ended(waiting)
        jobs = _jobs_of(waiting)
        answers = survey.ask(jobs)
        shortest_s = answers.pause_s
        is_late = time.monotonic() > deadline
        _cancel_requeued(jobs, answers)
        for ending in list(waiting):
            _look(ending, answers)
            if ending.is_over or (is_late and is_killed):
                waiting.remove(ending)
                over(ending)
        if is_late and not is_killed:
            for name, alive in by_cluster(_jobs_of(waiting)).items():
                clusters.find(name).kill(alive)
            is_killed = True
            deadline = time.monotonic() + _KILLED_S
        if shortest_s > POLL_S:
            longest_s = min(longest_s * _SLOWER, _LONGEST_S)
        longest_s = max(longest_s, shortest_s)
        looks_over = any(ending.detector.seen for ending in waiting)
        pause_s = shortest_s if looks_over else min(longest_s, deadline - time.monotonic())
        _sleep(waiting, ended, shortest_s, max(pause_s, shortest_s))


def _sleep(
    waiting: Sequence[Ending], ended: set[Path], shortest_s: float, longest_s: float
) -> None:
    """Sleep until a ledger says that a further attempt has ended, within these limits.

    Args:
        ended: what `_ended` returned before the launchers were polled.
    """
    begin = time.monotonic()
    while waiting and time.monotonic() < begin + longest_s:
        time.sleep(POLL_S)
        if time.monotonic() >= begin + shortest_s and _ended(waiting) - ended:
            return


def _cancel_requeued(jobs: Iterable[JobRef], answers: Answers) -> None:
    """Cancel again jobs that returned to the queue just before they were cancelled."""
    back = [job for job in jobs if job.restarts and answers.of(job).phase == "pending"]
    for name, pending in by_cluster(back).items():
        with contextlib.suppress(SchedulerRefused, SchedulerAway):
            clusters.find(name).cancel(pending)


def _ended(endings: Sequence[Ending]) -> set[Path]:
    """The runs whose newest attempt has ended, as their ledgers say."""
    return {ending.run.path for ending in endings if ending.run.ledger.history().cause is not None}


def _look(ending: Ending, answers: Answers) -> None:
    """Find out whether the jobs of a run are gone for good.

    A job that is about to return to the queue looks gone for a moment.
    """
    history = ending.run.ledger.history()
    ended = None
    if history.last and history.cause in ("cancelled", "finished"):
        ended = history.last.job_id
    is_sure = all(
        job.job_id == ended or answers.of(job).ended == "cancelled" for job in ending.jobs
    )
    is_gone = all(answers.of(job).is_gone for job in ending.jobs)
    of_its_clusters = answers.among(job.cluster for job in ending.jobs)
    is_believed = ending.detector.look(is_gone, of_its_clusters, is_sure=is_sure)
    ending.is_over = is_believed or (is_gone and is_sure)


def _ending(run: RunFolder, answers: Answers, works: Collection[Work]) -> Ending:
    """The living jobs of a run, or only those of ``works`` if there are any."""
    ids = set[str]().union(*map(_job_ids, works))
    jobs = {
        job.job_id: job
        for job, is_settled in survey.jobs_of(run)
        if (not works or job.job_id in ids) and answers.may_live(job, is_settled)
    }
    try:
        answers.require((job.cluster for job in jobs.values()), f"{run.name} was not cancelled")
    except UsageError as error:
        return Ending(run, problem=error)
    for job in jobs.values():
        if not _is_of(run, job):
            problem = UsageError(
                f"job {job.job_id} writes its logs to {job.logs}, so it belongs to another run. "
                f"Cancel that one."
            )
            return Ending(run, problem=problem)
    for job in jobs.values():
        answer = answers.of(job)
        if answer.phase != "unknown":
            continue
        if answer.reason and not answer.reason.startswith("started"):
            raise SchedulerAway(
                f"{run.name}: whether job {job.job_id} is alive is unknown ({answer.reason}). "
                f"Nothing was cancelled. Try again in a minute."
            )
        raise UsageError(f"{run.name} was {answer.reason or 'started elsewhere'}. Cancel it there.")
    return Ending(run, tuple(jobs.values()))


def _is_of(run: RunFolder, job: JobRef) -> bool:
    """Whether a job belongs to a run, rather than to one that its folder was copied from.

    Its logs are inside the run, or inside the folder of a group that lists it. If the folder of
    the logs does not exist, it may have another path on this machine: its name decides.
    """
    if not job.logs:
        return True
    logs = Path(job.logs)
    group = Group.of(run)
    if group is not None and run.name in group.members() and _is_inside(logs, group.path):
        return True
    if not os.path.isdir(logs):
        return run.name in logs.parts
    return _is_inside(logs, run.path)


def _is_inside(path: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(os.path.samefile(parent, folder) for parent in path.parents)
    return False


def _note(run: RunFolder, jobs: Collection[JobRef], refusal: str | None = None) -> None:
    """Note in the ledgers of a run and its works that jobs are cancelled, or that they are not."""
    if not jobs:
        return
    ids = {job.job_id for job in jobs}
    for work in _works_in(run):
        for job_id in sorted(ids & _job_ids(work)):
            event: Event = Cancelled(job_id=job_id)
            how = "is cancelled"
            if refusal is not None:
                event = Refused("cancellation", job_id=job_id, reason=refusal)
                how = "was not cancelled"
            with or_warned(f"could not note that job {job_id} of {run.name} {how}"):
                work.ledger.append(event)


def _end_process(ending: Ending, answers: Answers) -> None:
    """End a process of this machine that writes into a run without a job of its own."""
    run = ending.run
    holder = local_holder(run.leases)
    if holder is None:
        ending.remark = f"nothing is running ({status_or_reason(run, answers).state.lower()})"
        return
    process = local_processes.find(holder)
    try:
        local_processes.require_ours(process)
    except SchedulerRefused as error:
        ending.problem = error
        return
    with or_warned(f"could not note that {run.name} is cancelled"):
        run.ledger.append(Cancelled(job_id=holder["job_id"]))
    local_processes.end(process, GRACE_S)
    ending.remark = f"ended process {holder['pid']}, which cldctl did not start"
