"""Starting the trainings of one or several runs by one submission, and the evaluations that wait for their ends."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from cld_core.config import Recipe
from cld_core.evaluate.evaluation import evaluations_of
from cld_core.run import RunFolder, code
from cld_core.run.events import JobRef, Refused, Requested, Submitted
from cld_core.run.groups import Group
from cld_core.run.work import Work
from cldctl import locks
from cldctl.clusters.base import Cluster, Task
from cldctl.clusters.records import After, JobSpec, SchedulerAway, SchedulerRefused
from cldctl.hints import command
from cldctl.jobs import hooks, specs
from cldctl.jobs.train import TrainWork

from . import sharded, snapshot


@dataclass(frozen=True, kw_only=True)
class Start:
    """A run that is to train, for the first time or again.

    Attributes:
        evaluations: those that wait for its end.
        given: overrides of the command line of a new run; ``overrides``, of a continuation.
        from_step: the step of the checkpoint to continue from, if somebody named one.
        code: what the request says about the code.
    """

    run: RunFolder
    recipe: Recipe
    evaluations: tuple[Work, ...] = ()
    overrides: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    profile: str | None = None
    from_step: int | None = None
    code: str | None = None


def spec_of(group: Group, starts: Sequence[Start], cluster: Cluster, parallel: int | None = None) -> JobSpec:
    """The job of an array. Without a queue, its tasks run one after another unless ``parallel`` says otherwise."""
    return _array(group, starts, cluster, parallel)[0]


def of_one_size(starts: Sequence[Start]) -> list[list[Start]]:
    """Starts by what their jobs are: the tasks of an array are all of the same size, and import the same code."""
    arrays: dict[object, list[Start]] = {}
    for start in starts:
        arrays.setdefault((start.recipe.cluster, code.path_of(start.run.path)), []).append(start)
    return list(arrays.values())


def train(
    start: Start,
    cluster: Cluster,
    started: Callable[[JobRef], None] = lambda job: None,
    say: Callable[[str], None] = lambda text: None,
) -> JobRef:
    """Start the training of a run, or its continuation, and the evaluations that wait for its end.

    Args:
        started: called as soon as the job exists, before a blocking cluster begins.
        say: as in `sharded.start`.

    Raises:
        RecipeError: the cluster has no such jobs.
        SchedulerRefused, SchedulerAway: no job exists; the ledger says so.
    """
    spec = specs.training(start.run, start.recipe, cluster)
    cluster.check(spec)
    with uninterrupted(unless=cluster.blocks):
        (job,) = _submit(spec, [start], cluster, lambda jobs: started(jobs[0]))
        follow_up(start, cluster, job, say)
    return job


def train_several(
    group: Group,
    starts: Sequence[Start],
    cluster: Cluster,
    parallel: int | None = None,
    started: Callable[[Sequence[JobRef]], None] = lambda jobs: None,
) -> list[JobRef]:
    """Start the training of several runs, whose jobs are of the same size; returns a job for each.

    Args:
        started: as in `train`.

    Raises:
        CldError: others may write into the folder of the logs.
        RecipeError: the cluster has no such jobs, or not so many.
        SchedulerRefused, SchedulerAway: no job exists; the ledgers say so.
    """
    runs = [start.run for start in starts]
    spec, listed = _array(group, starts, cluster, parallel)
    cluster.check(spec, len(starts))
    specs.list_runs(listed, runs)
    with locked(runs, cluster):
        return _submit(spec, starts, cluster, started)


def _array(group: Group, starts: Sequence[Start], cluster: Cluster, parallel: int | None) -> tuple[JobSpec, Path]:
    at_once = parallel if parallel is not None or cluster.queues else 1
    return specs.trainings(group, [start.run for start in starts], starts[0].recipe, cluster, at_once)


def _submit(
    spec: JobSpec, starts: Sequence[Start], cluster: Cluster, started: Callable[[Sequence[JobRef]], None]
) -> list[JobRef]:
    """Start one job for each run.

    The requests are in the ledgers before the jobs exist, so that a job that starts immediately finds its own.
    """
    jobs: list[JobRef] = []

    def note(refs: Sequence[JobRef]) -> None:
        for ref, start in zip(refs, starts, strict=True):
            start.run.ledger.append(Submitted(job=ref, exclude=spec.exclude))
            snapshot.drop_replaced(start.run)
        jobs.extend(refs)
        started(refs)

    undo = [_request(start, cluster) for start in starts]
    try:
        cluster.submit(spec, [Task(work=TrainWork(str(start.run.path))) for start in starts], note)
    except (SchedulerRefused, SchedulerAway) as error:
        for start, put_back in zip(starts, undo, strict=True):
            away = isinstance(error, SchedulerAway)
            start.run.ledger.append(Refused("submission", reason=str(error), away=away))
            put_back()
        raise
    assert jobs, f"cluster {cluster.name} did not report its jobs"
    return jobs


def _request(start: Start, cluster: Cluster) -> Callable[[], None]:
    """Note that a run is to be trained, before there is a job; its jobs may call the hook of its recipe.

    Returns:
        What puts back the code and the hook that the run had, for when there is no job after all.
    """
    run, hook = start.run, hooks.settings(start.run)
    hooks.allow(run, start.recipe)
    run.ledger.append(
        Requested(
            steps=start.recipe.train.steps,
            overrides=start.overrides,
            given=start.given,
            profile=start.profile,
            code=start.code,
            from_step=start.from_step,
            host=socket.gethostname(),
            pid=os.getpid(),
            cluster=cluster.name,
        )
    )

    def undo() -> None:
        snapshot.put_back(run)
        hooks.put_back(run, hook)

    return undo


def follow_up(start: Start, cluster: Cluster, training: JobRef, say: Callable[[str], None] = lambda text: None) -> None:
    """Start the evaluations that wait for a training to end; on a cluster that blocks, it has ended.

    Args:
        say: told how shards share tasks, if they do.

    Raises:
        SchedulerRefused, SchedulerAway: they were not started; the training goes on.
    """
    run = start.run
    if not start.evaluations or (cluster.blocks and not is_finished(run)):
        return
    after, stored = After((training,)), code.path_of(run.path)
    try:
        sharded.start(start.evaluations, cluster, start.recipe.cluster, run=run, after=after, code=stored, say=say)
    except (SchedulerRefused, SchedulerAway) as error:
        text = f"{run.name} trains as job {training.job_id}, but {without_jobs(run)}"
        raise type(error)(f"{text}. The reason: {error}") from error


def without_jobs(run: RunFolder) -> str | None:
    """Which evaluations of a run have not been submitted, and what to do about it; None if all have."""
    works = [work for work in evaluations_of(run) if not work.is_done and not work.ledger.history().submitted]
    if not works:
        return None
    flags = dict.fromkeys(f"--{metric}" for work in works for metric in work.request.metrics)
    again = command(f"eval {run.name} {' '.join(flags)}", run)
    names = ", ".join(work.name for work in works)
    return f"its evaluation {names} was not submitted: when the training is finished, `{again}`"


def is_finished(run: RunFolder) -> bool:
    """Whether the newest attempt did all steps that it was asked for."""
    last = run.ledger.history().last
    return last is not None and last.cause == "finished"


@contextlib.contextmanager
def locked(runs: Sequence[RunFolder], cluster: Cluster) -> Iterator[None]:
    """Nobody else starts jobs of these runs meanwhile (`locks.only_one`)."""
    with contextlib.ExitStack() as stack:
        for run in runs:
            stack.enter_context(locks.only_one(run.path, cluster))
        yield


@contextlib.contextmanager
def uninterrupted(*, unless: bool = False) -> Iterator[None]:
    """Put Ctrl-C off until the end of the block; a second one ends it at once.

    Args:
        unless: leave everything as it is: what is computed inside listens itself.

    Raises:
        KeyboardInterrupt: at the end, if it was asked for.
    """
    before = signal.getsignal(signal.SIGINT)
    if unless or before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt
        print("interrupted; finishing the submission; press Ctrl-C again to abort", file=sys.stderr)

    signal.signal(signal.SIGINT, later)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt
