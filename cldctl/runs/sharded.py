"""Starting sharded work: evaluations of a run, statistics of a training set."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from cld_core import ownership
from cld_core.config.cluster import ClusterSpec
from cld_core.errors import NotFoundError, UsageError
from cld_core.evaluate.statistics import Statistics, make_folder
from cld_core.run import code as stored
from cld_core.run.events import JobRef, Submitted
from cld_core.run.shards import ShardedWork
from cld_core.run.state import living, without_job
from cld_core.run.work import Work, open_work
from cldctl import locks
from cldctl.clusters.base import Cluster, JobSpec, Limit, SchedulerAway, TooManyTasks
from cldctl.jobs import specs
from cldctl.jobs.shards import ShardsWork, divided

from . import survey
from .survey import Answers

# Shows a message of one line.
Say = Callable[[str], None]
# Seconds between looks at jobs that take a moment to end after their product is complete.
PAUSES_S = (0.2, 0.4, 0.8, 1.6, 3.2, 3.8, 0.0)


def start(
    missing: Sequence[tuple[Work, Sequence[int]]],
    cluster: Cluster,
    spec: JobSpec,
    size: ClusterSpec,
    together: bool = False,
    say: Say = lambda text: None,
) -> JobRef:
    """Start shards of works by one submission, a shard a task where the cluster takes so many
    tasks.

    Args:
        spec: the job of these works, `specs.sharded`.
        size: nodes, ranks and limits as a training would get them.
        together: one task computes all works, one after another.
        say: called with the reason if a limit of the scheduler makes tasks compute several shards.

    Raises:
        RecipeError: the cluster has no such jobs.
        SchedulerRefused, SchedulerAway: nothing was started.
    """
    works = {str(work.folder): work for work, _ in missing}
    shards_by_folder = [(str(work.folder), shards) for work, shards in missing]
    limit = Limit(1) if together else cluster.most_tasks(replace(spec, size=size))
    shares = divided(shards_by_folder, limit.tasks)
    why = limit.why
    cluster.check(spec, len(shares))
    digest = _digest(spec.code, cluster)
    jobs: list[JobRef] = []

    def note(refs: Sequence[JobRef]) -> None:
        jobs.extend(refs)
        for ref, share in zip(refs, shares, strict=True):
            for piece in share:
                event = Submitted(job=ref, shards=piece.shards, code=digest, exclude=spec.exclude)
                works[piece.folder].ledger.append(event)

    while True:
        tasks = [ShardsWork(share, gpu=size.uses_gpu, code=digest) for share in shares]
        try:
            cluster.submit(spec, tasks, note)
            break
        except TooManyTasks as error:
            if len(shares) == 1:
                raise
            why = f"{cluster.name} refuses {len(shares)} ({error.limit})"
            shares = divided(shards_by_folder, len(shares) // 2)
    count = sum(len(shards) for _, shards in missing)
    if why and len(shares) < count:
        say(f"{count} shards in {len(shares)} tasks: {why}")
    assert jobs, f"cluster {cluster.name} did not report its jobs"
    return jobs[0]


def _digest(code: Path | None, cluster: Cluster) -> str | None:
    """The digest of the code that tasks import; None where they run in this process."""
    if cluster.blocks:
        return None
    if code is None:
        return stored.imported()
    manifest = stored.read(code)
    return None if manifest is None else manifest.digest


def start_statistics(
    work: Statistics, cluster: Cluster, size: ClusterSpec, say: Say = lambda text: None
) -> JobRef | None:
    """Start what is missing of statistics; returns None if they exist or are being computed.

    Raises:
        CldError: somebody else may write into its folder.
        RecipeError: the cluster has no such jobs.
        SchedulerRefused, SchedulerAway: nothing was started.
    """
    if work.is_done:
        return None
    # What is in it says what jobs compute with, and which plug-in they import.
    make_folder(work.folder)
    with locks.only_one(work.folder, cluster):
        if work.is_done or is_alive(work.folder):
            return None
        stored = Statistics(work.request.save())
        spec = specs.sharded([stored.folder], size, cluster)
        return start([(stored, stored.to_start())], cluster, spec, size, say=say)


def ask_about(works: Iterable[Work]) -> Answers:
    """The answers of the clusters about all jobs of works.

    Raises:
        SchedulerAway, UsageError: it cannot be known whether they are being computed.
    """
    answers = survey.ask(event.job for work in works for event in work.ledger.history().submitted)
    answers.require(answers.surveys, "Whether this is being computed is unknown")
    return answers


def unclaimed(work: Work, answers: Answers) -> list[int]:
    """The shards to start of a work in progress: those that no living task computes.

    Some tasks of an array may have been cancelled or given up.
    """
    missing = work.missing() if isinstance(work, ShardedWork) else work.to_start()
    phases = {answers.of(event.job).phase for event in living(work.ledger.history(), answers)}
    if not missing and phases - {"pending"}:
        return []  # A task is about to merge them.
    return without_job(work.ledger.history(), work.to_start(), answers)


def is_alive(folder: Path) -> bool:
    """Whether a job that computes the work in a folder waits or runs; False if there is no work.

    Raises:
        SchedulerAway, UsageError: it cannot be known.
    """
    try:
        work = open_work(folder)
    except NotFoundError:
        return False
    return bool(living(work.ledger.history(), ask_about([work])))


def clear(folder: Path) -> None:
    """Remove the folder of work whose product is stored elsewhere, once no job writes into it."""
    with contextlib.suppress(SchedulerAway, UsageError):
        for pause_s in PAUSES_S:
            if not is_alive(folder):
                if folder.exists() and ownership.is_mine(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                return
            time.sleep(pause_s)
