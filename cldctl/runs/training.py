"""Starting trainings by as few submissions as possible, and the evaluations that follow them."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from cld_core import cpu
from cld_core.config import Recipe
from cld_core.config.data import StoredDataSpec
from cld_core.config.schema import problems_of_shape
from cld_core.data import store
from cld_core.errors import CldError, DataError, RecipeError
from cld_core.evaluate.request import periodic_request
from cld_core.plugins import is_shipped
from cld_core.run import RunFolder, code
from cld_core.run.events import JobRef, Refused, Requested, Submitted
from cld_core.run.groups import Group
from cld_core.run.work import Work, evaluations_of
from cldctl import locks
from cldctl.clusters.base import After, Cluster, SchedulerAway, SchedulerRefused
from cldctl.jobs import hooks, specs
from cldctl.jobs.train import TrainWork

from . import sharded, snapshot
from .selection import command
from .sharded import Say

# The outcomes for the runs of a group.
FOUND = ("new", "resumed", "running already", "finished already")
_STOPPED = ("terminated", "cancelled", "timeout", "preempted")


@dataclass(frozen=True, kw_only=True)
class TrainingStart:
    """A run that is to train, for the first time or again.

    Attributes:
        request: for the ledger; `train` adds time, process, cluster and code.
        stored: the folder of its code.
        evaluations: those that wait for its end.
    """

    run: RunFolder
    recipe: Recipe
    request: Requested
    stored: Path | None = None
    evaluations: tuple[Work, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A run that is skipped, and why.

    Attributes:
        exit_code: of the command; 0 if this is not a failure.
    """

    run: RunFolder
    reason: str
    exit_code: int = 0


@dataclass(kw_only=True)
class Begun:
    """The trainings that a command starts, and their outcomes.

    Attributes:
        group: None for one run.
        parallel: how many runs of the group may train at once.
        after: the jobs that the trainings wait for.
        started: called as soon as the job of a run exists, before a blocking cluster begins.
        runs: all requested runs.
        found: by name of the run, its outcome, one of `FOUND`.
        jobs: by name of the run, the job that was started.
        evaluations: by name of the run, the names of the evaluations that follow.
        skipped: runs that could not be started, and why.
        said: messages about one run.
    """

    cluster: Cluster
    group: Group | None = None
    parallel: int | None = None
    after: After | None = None
    started: Callable[[RunFolder], None] = lambda run: None
    runs: list[RunFolder] = field(default_factory=list)
    found: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, JobRef] = field(default_factory=dict)
    evaluations: dict[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def require_inputs(recipe: Recipe, say: Say = lambda text: None) -> None:
    """Refuse a recipe whose data, loggers, or inputs of periodic evaluations are unusable.

    Args:
        say: called with remarks about the data.

    Raises:
        UsageError
        RecipeError: data are not there or not usable, the network does not take them, or a logger's
            package is not installed.
    """
    recipe.monitor.require_installed()
    try:
        shape = store.require(recipe.data, say)
        if not is_shipped("data", recipe.data.name):
            from cld_core.data import source

            shape = source.require_usable(recipe)
    except DataError as error:
        # An error of the recipe, which names missing data, and not of a computation.
        key = "path" if isinstance(recipe.data, StoredDataSpec) else "name"
        raise RecipeError(f"'data.{key}': {error}") from error
    for name, _, problem in problems_of_shape(recipe, shape):
        raise RecipeError(f"'{name}' {problem}")
    _require_usable(recipe, shape)
    periodic_request(recipe, "fid")
    periodic_request(recipe, "elbo")


def _require_usable(recipe: Recipe, shape: tuple[int, ...]) -> None:
    """Run the network, diffusion and objective of plug-ins once, on examples of this shape.

    Loads torch if there are such plug-ins.

    Raises:
        RecipeError: one fails.
    """
    if not is_shipped("network", recipe.network.name):
        from cld_core import nets

        nets.require_usable(recipe, shape)
    if not (is_shipped("sde", recipe.sde.name) and is_shipped("objective", recipe.objective.name)):
        from cld_core import loss

        loss.require_usable(recipe, shape)


def require_native(recipe: Recipe, cluster: Cluster, say: Say) -> None:
    """Raises RecipeError if this machine's processor emulates the precision of the training.

    `train.emulated` allows it.
    """
    precision = recipe.train.precision
    if precision == "fp32" or recipe.cluster.uses_gpu:
        return
    if cluster.queues:
        say(
            f"{cpu.warning(precision, 'most processors')} unless those of the nodes have "
            f"instructions for it."
        )
    elif cpu.emulates(precision):
        warning = cpu.warning(precision)
        if not recipe.train.emulated:
            raise RecipeError(f"{warning}, or train.emulated=true.")
        say(f"{warning}.")


def by_submission(starts: Sequence[TrainingStart], cluster: Cluster) -> list[list[TrainingStart]]:
    """Divide starts into jobs whose tasks have the same size and the same code.

    A job has at most as many tasks as the cluster takes (`Cluster.array_size`). On a cluster that
    blocks, each start is a job of its own, so that one may fail.
    """
    alike: dict[object, list[TrainingStart]] = {}
    for start in starts:
        alone = start.run.name if cluster.blocks else None
        kind = (alone, start.recipe.cluster, code.name_of(start.stored))
        alike.setdefault(kind, []).append(start)
    most = cluster.array_size() if len(starts) > 1 else None
    arrays = []
    for group in alike.values():
        size = most or len(group)
        arrays += [group[first : first + size] for first in range(0, len(group), size)]
    return arrays


def train(begun: Begun, starts: Sequence[TrainingStart]) -> None:
    """Start the trainings of runs, or their continuations, and the evaluations that wait for each.

    Args:
        begun: gets the outcomes.

    Raises:
        RecipeError: the cluster has no such jobs, or not so many.
        SchedulerRefused, SchedulerAway: there is no job, and the ledgers say so; or the evaluations
            of the only run have none, and the training goes on.
        CldError: others may write into the folder of the logs. If something of a group was started,
            what fails is noted in ``begun`` instead.
    """
    cluster = begun.cluster
    for array in by_submission(starts, cluster):
        try:
            with uninterrupted(unless=cluster.blocks):
                _submit(begun, array)
                for start in array:
                    follow_up(start, cluster, begun.jobs[start.run.name], begun.said.append)
                    begun.evaluations[start.run.name] = tuple(
                        work.name for work in start.evaluations
                    )
        except CldError as error:
            if begun.group is None or not begun.jobs:
                raise
            # The runs without a job, or whose evaluations have none; on a cluster that blocks, the
            # one that failed.
            left = [start.run for start in array if start.run.name not in begun.evaluations]
            begun.skipped += [Skipped(run, str(error), error.exit_code) for run in left]
        # The run was ended, and with it the command that trains the others.
        if cluster.blocks and any(start.run.ledger.history().cause in _STOPPED for start in array):
            return


def _submit(begun: Begun, starts: Sequence[TrainingStart]) -> None:
    """Start one job for each run.

    The requests are in the ledgers before the jobs exist, so that a job that starts immediately
    finds its own.
    """
    cluster = begun.cluster
    group = begun.group
    runs = [start.run for start in starts]
    stored = code.importable(starts[0].stored)
    if group is not None and stored is not None and not cluster.blocks:
        # Each of the runs may be removed while the others train.
        stored = snapshot.store(group.path, snapshot.copy_of(stored), like=stored)
    spec = specs.training(
        runs,
        starts[0].recipe,
        cluster,
        group=group,
        after=begun.after,
        parallel=begun.parallel,
        code=stored,
    )
    spec = replace(spec, earlier=tuple(begun.jobs.values()))
    if group is not None:
        specs.list_runs(spec, runs)

    def note(refs: Sequence[JobRef]) -> None:
        for ref, run in zip(refs, runs, strict=True):
            run.ledger.append(Submitted(job=ref, exclude=spec.exclude))
        # If a ledger cannot be written, there are no jobs after all.
        for ref, run in zip(refs, runs, strict=True):
            begun.jobs[run.name] = ref
            begun.found.setdefault(run.name, "resumed")
            # The job goes on without its terminal.
            with contextlib.suppress(OSError):
                begun.started(run)

    # A run that is started alone is locked already.
    with locked([] if group is None else runs, cluster):
        undo = [_request(start, cluster) for start in starts]
        try:
            cluster.submit(spec, [TrainWork(str(run.path)) for run in runs], note)
        except (SchedulerRefused, SchedulerAway) as error:
            for run, put_back in zip(runs, undo, strict=True):
                away = isinstance(error, SchedulerAway)
                with or_warned(f"could not note that the submission of {run.name} was refused"):
                    run.ledger.append(Refused("submission", reason=str(error), away=away))
                with or_warned(f"could not put back the hook of {run.name}"):
                    put_back()
            raise
    assert all(run.name in begun.jobs for run in runs), (
        f"cluster {cluster.name} did not report its jobs"
    )


@contextlib.contextmanager
def or_warned(what: str) -> Iterator[None]:
    """Print a warning instead of an error if a file cannot be written, as on a full disk."""
    try:
        yield
    except OSError as error:
        print(f"warning: {what} ({error.strerror or error})", file=sys.stderr)


def _request(start: TrainingStart, cluster: Cluster) -> Callable[[], None]:
    """Note the request of a training, before there is a job, and allow the hook of its recipe.

    Returns:
        A function that restores the hook that the run had, for when there is no job after all.
    """
    put_back = hooks.allow(start.run, start.recipe)
    request = replace(
        start.request,
        code=code.name_of(start.stored),
        live=cluster.blocks,
        # Now: on a cluster that blocks, the runs of a group train one after another.
        time=round(time.time(), 3),
        host=socket.gethostname(),
        pid=os.getpid(),
        cluster=cluster.name,
    )
    start.run.ledger.append(request)
    return put_back


def follow_up(
    start: TrainingStart, cluster: Cluster, training: JobRef, say: Say = lambda text: None
) -> None:
    """Start the evaluations that follow a training.

    On a cluster that blocks, the training has ended; elsewhere they wait for its end.

    Args:
        say: called with a message if shards share tasks.

    Raises:
        SchedulerRefused, SchedulerAway: they were not started; the training goes on.
    """
    run = start.run
    if not start.evaluations or (cluster.blocks and not is_finished(run)):
        return
    size = start.recipe.cluster
    folders = [work.folder for work in start.evaluations]
    after = After((training,))
    try:
        missing = [(work, work.to_start()) for work in start.evaluations]
        spec = specs.sharded(
            folders, size, cluster, run=run, after=after, code=code.importable(start.stored)
        )
        sharded.start(missing, cluster, spec, size, say=say)
    except (SchedulerRefused, SchedulerAway) as error:
        raise type(error)(
            f"{run.name} trains as job {training.job_id}, but {without_jobs(run)}. "
            f"The reason: {error}"
        ) from error


def without_jobs(run: RunFolder) -> str | None:
    """A message about evaluations of a run that have not been submitted; None if all have."""
    works = [
        work
        for work in evaluations_of(run)
        if not work.is_done and not work.ledger.history().submitted
    ]
    if not works:
        return None
    flags = dict.fromkeys(f"--{metric}" for work in works for metric in work.request.metrics)
    again = command(f"eval {run.name} {' '.join(flags)}", run)
    names = ", ".join(work.name for work in works)
    return f"its evaluation {names} was not submitted: when the training is finished, `{again}`"


def is_finished(run: RunFolder) -> bool:
    """Whether the newest attempt did all requested steps."""
    return run.ledger.history().cause == "finished"


@contextlib.contextmanager
def locked(runs: Sequence[RunFolder], cluster: Cluster) -> Iterator[None]:
    """Hold the locks of runs, so that no other command starts jobs of them (`locks.only_one`)."""
    with contextlib.ExitStack() as stack:
        for run in runs:
            stack.enter_context(locks.only_one(run.path, cluster))
        yield


@contextlib.contextmanager
def uninterrupted(*, unless: bool = False) -> Iterator[None]:
    """Put Ctrl-C off until the end of the block; a second one ends it at once.

    Args:
        unless: leave Ctrl-C alone, because the block handles it itself.

    Raises:
        KeyboardInterrupt: at the end, if it was asked for.
    """
    before = signal.getsignal(signal.SIGINT)
    if (
        unless
        or before is not signal.default_int_handler
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    signals: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) > 1:
            raise KeyboardInterrupt
        print("interrupted; finishing the submission; press Ctrl-C again to abort", file=sys.stderr)

    signal.signal(signal.SIGINT, later)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if signals:
        raise KeyboardInterrupt
