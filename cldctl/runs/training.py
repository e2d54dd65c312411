"""Starting trainings by as few submissions as possible, and the evaluations that wait for their
ends."""

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
from cld_core.registration import is_shipped
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

# What is said of the runs of a group.
FOUND = ("new", "resumed", "running already", "finished already")
_STOPPED = ("terminated", "cancelled", "timeout", "preempted")


@dataclass(frozen=True, kw_only=True)
class Start:
    """A run that is to train, for the first time or again.

    Attributes:
        request: what the ledger is told; `train` adds the time, who asks, which cluster, and the
            code.
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
    """A run that is left alone, and why.

    Attributes:
        exit_code: of the command; 0 if nothing failed: it is not known to be a run that this user
            could resume.
    """

    run: RunFolder
    reason: str
    exit_code: int = 0


@dataclass(kw_only=True)
class Begun:
    """What was done about a run, or about each run of a group.

    Attributes:
        group: None for one run; ``parallel``: how many of its runs may train at once.
        after: what the trainings wait for.
        started: called as soon as the job of a run exists, before a blocking cluster begins.
        runs: all that were asked for.
        found: what they were or became, one of `FOUND` by name of the run; ``jobs`` of those that
            were started.
        evaluations: the names of those that follow, by name of the run.
        skipped: runs that could not be started, and why.
        said: what people should know about one run.
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
    """Refuse a recipe whose data, loggers, or what its periodic evaluations need, is missing or
    does not fit.

    Args:
        say: told what people should know about the data.

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
        # Nothing has failed yet: the recipe names what is not there.
        key = "path" if isinstance(recipe.data, StoredDataSpec) else "name"
        raise RecipeError(f"'data.{key}': {error}") from error
    for key, _, text in problems_of_shape(recipe, shape):
        raise RecipeError(f"'{key}' {text}")
    _require_usable(recipe, shape)
    periodic_request(recipe, "fid")
    periodic_request(recipe, "elbo")


def _require_usable(recipe: Recipe, shape: tuple[int, ...]) -> None:
    """Try what plug-ins have registered once, on examples of this shape; loads torch if they have.

    Raises:
        RecipeError: it fails.
    """
    if not is_shipped("network", recipe.network.name):
        from cld_core import nets

        nets.require_usable(recipe, shape)
    if not (is_shipped("sde", recipe.sde.name) and is_shipped("objective", recipe.objective.name)):
        from cld_core import loss

        loss.require_usable(recipe, shape)


def require_native(recipe: Recipe, cluster: Cluster, say: Say) -> None:
    """Refuse to train on this machine in a precision that its processor emulates, unless
    `train.emulated` allows it.

    Raises:
        RecipeError
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


def by_submission(starts: Sequence[Start], cluster: Cluster) -> list[list[Start]]:
    """Starts by the job that they are tasks of: all of the same size, with the same code.

    A submission has as many tasks as the cluster takes (`Cluster.array_size`).
    On a cluster that blocks, each is on its own, so that one may fail.
    """
    alike: dict[object, list[Start]] = {}
    for start in starts:
        alone = start.run.name if cluster.blocks else None
        kind = (alone, start.recipe.cluster, code.name_of(start.stored))
        alike.setdefault(kind, []).append(start)
    most = cluster.array_size() if len(starts) > 1 else None
    arrays = []
    for these in alike.values():
        size = most or len(these)
        arrays += [these[first : first + size] for first in range(0, len(these), size)]
    return arrays


def train(begun: Begun, starts: Sequence[Start]) -> None:
    """Start the trainings of runs, or their continuations, and the evaluations that wait for each.

    Args:
        begun: is told what was started.

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
            # Those without a job, or whose evaluations have none; on a cluster that blocks, the one
            # that failed.
            left = [start.run for start in array if start.run.name not in begun.evaluations]
            begun.skipped += [Skipped(run, str(error), error.exit_code) for run in left]
        # Somebody ended the run, and with it the command that trains the others.
        if cluster.blocks and any(start.run.ledger.history().cause in _STOPPED for start in array):
            return


def _submit(begun: Begun, starts: Sequence[Start]) -> None:
    """Start one job for each run.

    The requests are in the ledgers before the jobs exist, so that a job that starts immediately
    finds its own.
    """
    cluster, runs = begun.cluster, [start.run for start in starts]
    stored = code.importable(starts[0].stored)
    if begun.group is not None and stored is not None and not cluster.blocks:
        # Each of the runs may be removed while the others train.
        stored = snapshot.store(begun.group.path, snapshot.copy_of(stored), like=stored)
    group, recipe = begun.group, starts[0].recipe
    spec = specs.training(
        runs, recipe, cluster, group=group, after=begun.after, parallel=begun.parallel, code=stored
    )
    spec = replace(spec, earlier=tuple(begun.jobs.values()))
    if begun.group is not None:
        specs.list_runs(spec, runs)

    def note(refs: Sequence[JobRef]) -> None:
        for ref, run in zip(refs, runs, strict=True):
            run.ledger.append(Submitted(job=ref, exclude=spec.exclude))
        # If a ledger cannot be written, there are no jobs after all.
        for ref, run in zip(refs, runs, strict=True):
            begun.jobs[run.name] = ref
            begun.found.setdefault(run.name, "resumed")
            # A terminal that is gone ends no job.
            with contextlib.suppress(OSError):
                begun.started(run)

    # Who starts one run alone has locked it.
    with locked([] if begun.group is None else runs, cluster):
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
    """Go on with what is more important if a file cannot be written, as on a full disk, and warn of
    it."""
    try:
        yield
    except OSError as error:
        print(f"warning: {what} ({error.strerror or error})", file=sys.stderr)


def _request(start: Start, cluster: Cluster) -> Callable[[], None]:
    """Note that a run is to be trained, before there is a job; its jobs may call the hook of its
    recipe.

    Returns:
        What puts back the hook that the run had, for when there is no job after all.
    """
    run = start.run
    put_back = hooks.allow(run, start.recipe)
    # It may have been made long ago: runs of a group train one after another on a cluster that
    # blocks.
    now, host = round(time.time(), 3), socket.gethostname()
    asked = replace(start.request, code=code.name_of(start.stored), live=cluster.blocks)
    run.ledger.append(replace(asked, time=now, host=host, pid=os.getpid(), cluster=cluster.name))
    return put_back


def follow_up(
    start: Start, cluster: Cluster, training: JobRef, say: Say = lambda text: None
) -> None:
    """Start the evaluations that wait for a training to end; on a cluster that blocks, it has
    ended.

    Args:
        say: told how shards share tasks, if they do.

    Raises:
        SchedulerRefused, SchedulerAway: they were not started; the training goes on.
    """
    run = start.run
    if not start.evaluations or (cluster.blocks and not is_finished(run)):
        return
    folders, size = [work.folder for work in start.evaluations], start.recipe.cluster
    after = After((training,))
    try:
        missing = [(work, work.to_start()) for work in start.evaluations]
        spec = specs.sharded(
            folders, size, cluster, run=run, after=after, code=code.importable(start.stored)
        )
        sharded.start(missing, cluster, spec, size, say=say)
    except (SchedulerRefused, SchedulerAway) as error:
        text = f"{run.name} trains as job {training.job_id}, but {without_jobs(run)}"
        raise type(error)(f"{text}. The reason: {error}") from error


def without_jobs(run: RunFolder) -> str | None:
    """Which evaluations of a run have not been submitted, and what to do about it; None if all
    have."""
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
    """Whether the newest attempt did all steps that it was asked for."""
    return run.ledger.history().cause == "finished"


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
    if (
        unless
        or before is not signal.default_int_handler
        or threading.current_thread() is not threading.main_thread()
    ):
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
