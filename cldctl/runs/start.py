"""Starting works of any kind by as few jobs as possible: what is refused leaves nothing behind."""

import contextlib
import functools
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from cld_core.config import Recipe
from cld_core.config.cluster import ClusterSpec
from cld_core.errors import CldError, NotFoundError, UsageError
from cld_core.evaluate.request import request_of
from cld_core.ownership import is_mine
from cld_core.run import RunFolder, code
from cld_core.run.code import Manifest
from cld_core.run.evaluations import EvalRequest, Evaluation, Sweep
from cld_core.run.events import JobRef, Labelled, Refused, Requested, Submitted
from cld_core.run.groups import Group
from cld_core.run.identity import identity
from cld_core.run.state import ShardedFacts, living, state_of, without_job
from cld_core.run.work import RequestedWork, Work, evaluations_of
from cldctl import clusters, locks
from cldctl.clusters.base import (
    After,
    Cluster,
    JobSpec,
    Limit,
    SchedulerAway,
    SchedulerRefused,
    TooManyTasks,
)
from cldctl.jobs import hooks, specs
from cldctl.jobs.shards import ShardsWork, divided
from cldctl.jobs.train import TrainWork

from . import snapshot
from .options import SubmitOptions
from .selection import command

if TYPE_CHECKING:
    from .survey import Answers

# What becomes of a work that a command requests, in the order in which messages count them.
OUTCOMES = (
    "new",
    "resumed",
    "running already",
    "finished already",
    "already complete",
    "being computed",
    "started",
    "not started",
)
_STOPPED = ("terminated", "cancelled", "timeout", "preempted")
# Seconds between looks at jobs that take a moment to end after their product is complete.
PAUSES_S = (0.2, 0.4, 0.8, 1.6, 3.2, 3.8, 0.0)


@dataclass(kw_only=True)
class PlannedWork:
    """A work that a command requests, and what becomes of it.

    Attributes:
        work: its folder need not exist.
        size: the size of its jobs; for a sharded work, that of a training with the same resources.
        pieces: the pieces that jobs are started for.
        code: the folder of the code that its jobs import; None for the code of this process.
        outcome: one of `OUTCOMES`; None as long as it is to be started.
        job: the job that was started.
        chained: the evaluations that wait for the end of the work.
        sweep: the table of which the work is a cell.
        error: why the work, or an evaluation in ``chained``, was not started.
        is_new: whether its folder was made by this command.
    """

    work: Work
    size: ClusterSpec = field(default_factory=ClusterSpec)
    pieces: Sequence[int] = ()
    code: Path | None = None
    outcome: str | None = None
    job: JobRef | None = None
    chained: Sequence[Evaluation] = ()
    sweep: Sweep | None = None
    error: CldError | None = None
    is_new: bool = False

    @property
    def run(self) -> RunFolder:
        """The run that the work belongs to."""
        assert self.work.run is not None, f"{self.work.name} belongs to no run"
        return self.work.run


@dataclass(kw_only=True)
class PlannedTraining(PlannedWork):
    """A training that begins or continues. The size of its jobs is that of its recipe.

    Attributes:
        request: the event for the ledger; `start` adds time, process, cluster and code.
        options: the options of a new run; None if the run continues.
        values: the swept values of a new run, by key; empty without a sweep.
        update_code: whether the run continues with the code of the checkout.
    """

    recipe: Recipe
    request: Requested
    options: SubmitOptions | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    update_code: bool = False
    pieces: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        self.size = self.recipe.cluster


@dataclass(kw_only=True)
class Submission:
    """The works that a command requests, and the jobs that it starts for them.

    `start` returns one; until then it is being filled.

    Attributes:
        works: all works of the command, also those without a job.
        group: the group that the works belong to; None for works of one run, or of none.
        blocks: whether the cluster blocks, so that the works are computed when `start` returns.
        messages: how works were divided into tasks, a line each.
    """

    works: list[PlannedWork] = field(default_factory=list)
    group: Group | None = None
    blocks: bool = False
    messages: list[str] = field(default_factory=list)

    @property
    def place(self) -> RunFolder | Group:
        """The group or run of the works; statistics have none."""
        return self.group or self.works[0].run

    @property
    def sweep(self) -> Sweep | None:
        """The table of a sweep, if the works of one run are its cells."""
        return self.works[0].sweep if self.group is None and self.works else None

    @property
    def jobs(self) -> list[JobRef]:
        return [planned.job for planned in self.works if planned.job is not None]

    @property
    def chained(self) -> list[Evaluation]:
        """The evaluations that wait for trainings of this submission."""
        return [
            work
            for planned in self.works
            if planned.job and planned.error is None
            for work in planned.chained
        ]

    @property
    def is_over(self) -> bool:
        return all(planned.outcome == "already complete" for planned in self.works)

    @property
    def exit_code(self) -> int:
        """The exit code of a command that does not wait for the works."""
        errors = (planned.error for planned in self.works)
        return max((error.exit_code for error in errors if error is not None), default=0)


def start(
    works: Iterable[PlannedWork],
    cluster: Cluster,
    place: RunFolder | Group | None = None,
    *,
    after: After | None = None,
    parallel: int | None = None,
    notify: Callable[[RunFolder], None] = lambda run: None,
) -> Submission:
    """Start trainings, and the pieces of other works that are missing and that no job computes.

    A job that begins at once finds its own request in the ledger of a training.

    Args:
        works: the works; they are iterated while ``place`` is locked, so that a generator sees a
            state that no other command changes.
        place: the run or group of the works; None for a new run, and for works without a run.
        after: the jobs to wait for. The requests of sharded works that wait are stored already, and
            their `pieces` are set.
        parallel: how many tasks may run at once.
        notify: called as soon as the job of a training exists, before a cluster that blocks begins.

    Raises:
        RecipeError: the cluster has no such jobs, or not so many.
        SchedulerRefused, SchedulerAway: nothing was started, and ledgers of older runs say so; or a
            training was started, and the evaluation that waits for it was not.
        CldError: nothing was started, and new folders are removed again. If some works of a group
            were started, the error is that of the others (`PlannedWork.error`).
    """
    group = place if isinstance(place, Group) else None
    submission = Submission(group=group, blocks=cluster.blocks)
    new_tables: list[Path] = []
    with contextlib.ExitStack() as stack:
        if place is not None:
            stack.enter_context(locks.only_one(place.path, cluster, makes=group is not None))

        def undo(kind: object, error: BaseException | None, trace: object) -> None:
            # `stack` has released the locks of new runs by now: a network file system would keep
            # the open files in their folders.
            if isinstance(error, CldError):
                _remove_unsubmitted(submission.works)
                if group is not None and not group.runs():
                    shutil.rmtree(group.path, ignore_errors=True)
                if not submission.jobs:
                    for folder in new_tables:
                        shutil.rmtree(folder, ignore_errors=True)

        stack.push(undo)
        submission.works += works
        wanted = [planned for planned in submission.works if not (planned.outcome or planned.error)]
        trainings = [planned for planned in wanted if isinstance(planned, PlannedTraining)]
        if trainings:
            _prepare_trainings(trainings, submission, stack, cluster)
        elif after is None:
            _prepare(wanted, stack, cluster)
        new_tables += _save_tables(submission.works)
        wanted = [planned for planned in wanted if planned.pieces and not planned.error]
        for batch in _batches(wanted, cluster):
            unfinished = list(batch)
            try:
                with uninterrupted(unless=cluster.blocks):
                    _submit(batch, submission, cluster, after, parallel, notify)
                    while unfinished:
                        _start_chained(unfinished[0], submission, cluster)
                        unfinished.pop(0)
            except CldError as error:
                if group is None or not submission.jobs:
                    raise
                for planned in unfinished:
                    planned.error = error
                _remove_unsubmitted(
                    planned for planned in unfinished if not isinstance(planned, PlannedTraining)
                )
            # After a stop signal, no further trainings are started.
            if cluster.blocks and any(
                planned.work.history().cause in _STOPPED for planned in batch
            ):
                break
    return submission


def start_on_each(
    works: Mapping[str, Sequence[PlannedWork]], group: Group, parallel: int | None = None
) -> Submission:
    """Start works of the runs of a group, on several clusters.

    Args:
        works: the works for each cluster, by its name.
        parallel: how many tasks of a cluster may run at once.

    Raises:
        CldError: the first cluster that was tried starts nothing. If a later one starts nothing,
            its works have the error (`PlannedWork.error`).
    """
    everything = Submission(group=group)
    for name, planned in works.items():
        try:
            submission = start(planned, clusters.find(name), group, parallel=parallel)
        except CldError as error:
            if not everything.jobs:
                raise
            for work in planned:
                work.error = error
            everything.works += planned
            continue
        everything.works += submission.works
        everything.messages += submission.messages
        everything.blocks |= submission.blocks
    return everything


def _save_tables(works: Iterable[PlannedWork]) -> list[Path]:
    """Save the sweeps whose cells the works are; return the folders that were made."""
    sweeps = {planned.run.path: planned.sweep for planned in works if planned.sweep is not None}
    made = []
    for path, sweep in sweeps.items():
        run = RunFolder(path)
        folder = run.evals / sweep.id
        if not folder.exists():
            made.append(folder)
        sweep.save(run)
    return made


def _remove_unsubmitted(works: Iterable[PlannedWork]) -> None:
    """Remove the new folders of works that have no job, so that names of runs are free again.

    A work stays if its ledger has a job: another command may have started that meanwhile.
    """
    for planned in works:
        if planned.is_new and planned.job is None and not planned.work.history().submitted:
            shutil.rmtree(planned.work.folder, ignore_errors=True)


# --- before there are jobs


def _prepare(works: Sequence[PlannedWork], stack: contextlib.ExitStack, cluster: Cluster) -> None:
    """Lock divided works, store their requests, and find the pieces that no job computes.

    Args:
        stack: keeps the locks.
    """
    missing = []
    for planned in works:
        if planned.work.is_done:
            planned.outcome = "already complete"
            continue
        planned.is_new = not planned.work.folder.exists()
        if planned.work.run is None:
            # Its files say with what the jobs compute, and which plug-in they import.
            planned.work.make_folder()
        _lock(planned, stack, cluster)
        missing.append(planned)
    answers = _ask_about([planned.work for planned in missing])
    for planned in missing:
        _find_pieces(planned, answers)


def _prepare_trainings(
    trainings: Sequence[PlannedTraining],
    submission: Submission,
    stack: contextlib.ExitStack,
    cluster: Cluster,
) -> None:
    """Lock the runs of trainings, make those that are new, and store code."""
    group = submission.group
    new = {planned.run.name: planned.values for planned in trainings if planned.options}
    checkout = functools.cache(snapshot.of_checkout)
    like = None
    if group is not None and new:
        group.add(new)
        # Files that are equal to those of an older run of the group are stored once.
        for planned in submission.works:
            with contextlib.suppress(OSError):
                like = like or code.importable(code.folder_of(planned.run.path))
    for training in trainings:
        options = training.options
        if options is None:
            _lock(training, stack, cluster)
            try:
                _store_code(training, cluster)
            except CldError as error:
                if group is None:
                    raise
                training.error = error
            continue
        _create(training, options, group)
        # `status` shows from here on that a command is at work: storing code takes time.
        _lock(training, stack, cluster)
        source = checkout(training.run.path.parent, cluster, live=options.live_code)
        plugins = ((path, path) for path in training.recipe.plugins)
        like = snapshot.store(training.run.path, source.with_plugins(plugins), like)
        training.code = like
        _note_options(training, options)


def _lock(planned: PlannedWork, stack: contextlib.ExitStack, cluster: Cluster) -> None:
    """Keep other commands from starting jobs of a run, or of a work without a run."""
    folder = planned.work.folder if planned.work.run is None else planned.run.path
    stack.enter_context(locks.only_one(folder, cluster))


def _create(planned: PlannedTraining, options: SubmitOptions, group: Group | None) -> None:
    """Make the folder of a new run.

    Raises:
        UsageError: the name is taken.
        CldError: it cannot be made.
    """
    name = None if group is None else group.name
    about = identity(planned.recipe.name, options.file, group=name, sweep=planned.values)
    if options.origin is not None:
        about["started_from"] = options.origin.identity
    RunFolder.create(planned.run.path, planned.recipe, about)
    planned.is_new = True


def _note_options(planned: PlannedTraining, options: SubmitOptions) -> None:
    """Store tags, starting weights and the request of the chained evaluation in a new run."""
    run = planned.run
    if options.tags or options.note:
        run.ledger.append(Labelled(note=options.note or None, add=options.tags))
    if options.origin is not None:
        options.origin.begin(run, planned.recipe)
    _use_copies(planned)
    request = request_after(planned.recipe, options.metrics)
    if request is not None:
        planned.chained = (Evaluation(request.save(run)),)


def _store_code(planned: PlannedTraining, cluster: Cluster) -> None:
    """Store the code with which a run continues, and find the evaluations to chain to it."""
    run = planned.run
    planned.code = snapshot.for_continuation(
        run, planned.recipe, cluster, update=planned.update_code
    )
    _use_copies(planned)
    # The evaluations of the last step wait for the training.
    planned.chained = [
        work
        for work in evaluations_of(run)
        if work.request.checkpoint_step == planned.recipe.train.steps and not work.is_done
    ]


def _use_copies(planned: PlannedTraining) -> None:
    """Let the recipe name the run's copies of its plug-ins."""
    plugins = code.with_copies(planned.recipe.plugins, planned.code)
    planned.recipe = replace(planned.recipe, plugins=plugins)


def request_after(recipe: Recipe, metrics: tuple[str, ...]) -> EvalRequest | None:
    """The request of the evaluation of the last step of a new training; None without metrics.

    Raises:
        UsageError: the recipe lacks a setting that a metric needs.
    """
    if not metrics:
        return None
    return request_of(recipe, metrics, recipe.train.steps, recipe.cluster.world_size)


def _find_pieces(planned: PlannedWork, answers: "Answers") -> None:
    """Find the pieces of a work that no job computes, and store its request if it does not run."""
    work = planned.work
    assert isinstance(work, RequestedWork), "only trainings have no request"
    known = begun(work)
    state = "STOPPED"
    if known is not None:
        state = state_of(known.history(), ShardedFacts(known), answers).name
    planned.outcome = "already complete"
    if state == "STOPPED":
        # A request that was damaged is written again: its product may be there already.
        request = _with_copies(work.run, work.request)
        planned.work = type(work)(request.store(work.folder))
        planned.pieces = planned.work.to_start()
    elif known is not None and state in ("RUNNING", "PENDING"):
        planned.outcome = "being computed"
        planned.work = known
        planned.pieces = _unclaimed(known, answers)
        if work.together:
            # A tuning that runs already continues to the budget of the newest request.
            work.request.store(work.folder)
    if planned.pieces:
        planned.outcome = None


def _ask_about(works: Iterable[Work]) -> "Answers":
    """The answers of the clusters about all jobs of works.

    Raises:
        SchedulerAway, UsageError: a cluster cannot be asked whether it computes them.
    """
    from . import survey

    answers = survey.ask(event.job for work in works for event in work.history().submitted)
    answers.require(answers.surveys, "Whether this is being computed is unknown")
    return answers


def begun(work: RequestedWork) -> RequestedWork | None:
    """The work with the number of shards with which it was begun.

    None if it was not begun, or if its request is damaged and no job computes it.
    """
    with contextlib.suppress(NotFoundError):
        shards = work.request_type.load(work.folder).shards
        return type(work)(work.folder, replace(work.request, shards=shards))
    return work if work.history().submitted and not work.is_done else None


def _unclaimed(work: Work, answers: "Answers") -> list[int]:
    """The pieces to start of a work in progress: those that no living task computes.

    Some tasks of an array may have been cancelled or given up.
    """
    history = work.history()
    phases = {answers.of(event.job).phase for event in living(history, answers)}
    if not ShardedFacts(work, is_done=False).missing and phases - {"pending"}:
        return []  # A task is about to merge them.
    return without_job(history, work.to_start(), answers)


def _with_copies(run: RunFolder | None, request: Any) -> Any:
    """A request whose plug-ins are copies in the run's folder, including those typed just now."""
    files = getattr(request, "files", {})
    own = () if run is None else run.recipe().plugins
    new = [path for place, path in files.items() if place.startswith("plugin ") and path not in own]
    if run is None or not new:
        return request
    source = snapshot.Code(Manifest(kind="process")).with_plugins((path, path) for path in new)
    copies = code.with_copies(list(files.values()), snapshot.store(run.path, source))
    return replace(request, files=dict(zip(files, copies, strict=True)))


# --- jobs


def _batches(works: Sequence[PlannedWork], cluster: Cluster) -> list[list[PlannedWork]]:
    """Divide works into jobs whose tasks have the same size and the same code.

    A job has at most as many trainings as the cluster takes (`Cluster.array_size`). On a cluster
    that blocks, each training is a job of its own, so that one may fail.
    """
    alike: dict[object, list[PlannedWork]] = {}
    for planned in works:
        is_world = planned.work.is_world
        alone = planned.work.folder if cluster.blocks and is_world else None
        kind = (is_world, alone, planned.size, code.name_of(planned.code))
        alike.setdefault(kind, []).append(planned)
    batches = []
    for batch in alike.values():
        size = len(batch)
        if batch[0].work.is_world and len(works) > 1:
            size = cluster.array_size() or size
        batches += [batch[first : first + size] for first in range(0, len(batch), size)]
    return batches


def _submit(
    batch: Sequence[PlannedWork],
    submission: Submission,
    cluster: Cluster,
    after: After | None,
    parallel: int | None,
    notify: Callable[[RunFolder], None],
) -> None:
    """Start one job whose tasks compute the pieces of works."""
    first = batch[0]
    is_world = first.work.is_world
    spec = _job_of(batch, submission, cluster, after, parallel)
    by_folder = {str(planned.work.folder): planned for planned in batch}
    pieces = [(folder, planned.pieces) for folder, planned in by_folder.items()]
    digest = None
    if is_world:
        limit = Limit(len(batch))
        if submission.group is not None:
            specs.list_runs(spec, [planned.run for planned in batch])
    elif first.work.together:
        limit = Limit(1)
    else:
        # `spec.size` is that of one process; the limit depends on the size of a training.
        limit = cluster.most_tasks(replace(spec, size=first.size))
    shares = divided(pieces, limit.tasks)
    if not is_world:
        digest = _digest(spec.code, cluster)
        cluster.check(spec, len(shares))
    limited_by = limit.why

    def note_jobs(refs: Sequence[JobRef]) -> None:
        pairs = zip(refs, shares, strict=True)
        jobs = [(by_folder[piece.folder], piece, ref) for ref, share in pairs for piece in share]
        for planned, piece, ref in jobs:
            event = Submitted(job=ref, exclude=spec.exclude)
            if not is_world:
                event = replace(event, shards=piece.shards, code=digest)
            planned.work.ledger.append(event)
        # After all ledgers: if one cannot be written, the cluster ends the jobs that it started.
        for planned, _, ref in jobs:
            planned.job = planned.job or ref
            planned.outcome = "started"
            if isinstance(planned, PlannedTraining):
                planned.outcome = "resumed" if planned.options is None else "new"
                # If the terminal is gone, printing fails; the job does not depend on it.
                with contextlib.suppress(OSError):
                    notify(planned.run)

    with contextlib.ExitStack() as stack:
        for planned in batch:
            if isinstance(planned, PlannedTraining):
                stack.enter_context(_requested(planned, cluster))
        while True:
            try:
                tasks: list[TrainWork | ShardsWork] = []
                for share in shares:
                    if is_world:
                        tasks.append(TrainWork(share[0].folder))
                    else:
                        tasks.append(ShardsWork(share, gpu=first.size.uses_gpu, code=digest))
                cluster.submit(spec, tasks, note_jobs)
                break
            except TooManyTasks as error:
                if is_world or len(shares) == 1:
                    raise
                limited_by = f"{cluster.name} refuses {len(shares)} tasks ({error.limit})"
                shares = divided(pieces, len(shares) // 2)
    assert all(planned.job for planned in batch), f"cluster {cluster.name} did not report its jobs"
    count = sum(len(planned.pieces) for planned in batch)
    if limited_by and len(shares) < count:
        submission.messages.append(f"{count} shards in {len(shares)} tasks: {limited_by}")


def _job_of(
    batch: Sequence[PlannedWork],
    submission: Submission,
    cluster: Cluster,
    after: After | None,
    parallel: int | None,
) -> JobSpec:
    """The job whose tasks compute works, after the jobs that were started before it."""
    first = batch[0]
    group = submission.group
    logs = None
    if submission.sweep is not None:
        logs = first.run.evals / submission.sweep.id / "logs"
    imported = code.importable(first.code)
    if group is not None and first.work.is_world and imported is not None and not cluster.blocks:
        # Each of the runs may be removed while the others train.
        imported = snapshot.store(group.path, snapshot.copy_of(imported), like=imported)
    works = [planned.work for planned in batch]
    spec = specs.of_works(
        works,
        first.size,
        cluster,
        group=group,
        logs=logs,
        after=after,
        parallel=parallel,
        code=imported,
    )
    return replace(spec, earlier=tuple(submission.jobs))


def _digest(imported: Path | None, cluster: Cluster) -> str | None:
    """The digest of the code that tasks import; None where they run in this process."""
    if cluster.blocks:
        return None
    if imported is None:
        return code.imported()
    manifest = code.read(imported)
    return None if manifest is None else manifest.digest


@contextlib.contextmanager
def _requested(planned: PlannedTraining, cluster: Cluster) -> Iterator[None]:
    """Note the request of a training and allow its hook, while its job is being submitted.

    If the job is refused, the ledger says so, and the hook that the run had is restored.
    """
    run = planned.run
    put_back = hooks.allow(run, planned.recipe)
    name = code.name_of(planned.code)
    request = replace(planned.request, code=name, live=cluster.blocks, cluster=cluster.name)
    # The runs of a group train one after another on a cluster that blocks: each has its own time.
    requested_at = round(time.time(), 3)
    host = socket.gethostname()
    run.ledger.append(replace(request, time=requested_at, host=host, pid=os.getpid()))
    try:
        yield
    except (SchedulerRefused, SchedulerAway) as error:
        away = isinstance(error, SchedulerAway)
        with or_warned(f"could not note that the submission of {run.name} was refused"):
            run.ledger.append(Refused("submission", reason=str(error), away=away))
        with or_warned(f"could not put back the hook of {run.name}"):
            put_back()
        raise


@contextlib.contextmanager
def or_warned(what: str) -> Iterator[None]:
    """Print a warning instead of an error if a file cannot be written, as on a full disk."""
    try:
        yield
    except OSError as error:
        print(f"warning: {what} ({error.strerror or error})", file=sys.stderr)


def _start_chained(planned: PlannedWork, submission: Submission, cluster: Cluster) -> None:
    """Start the evaluations that are chained to a training.

    On a cluster that blocks, the training has ended; on others, the evaluations wait for its end.

    Raises:
        SchedulerRefused, SchedulerAway: the evaluations were not started; the training was.
    """
    if planned.job is None or not planned.chained:
        return
    if cluster.blocks and not planned.work.is_done:
        return
    works = [
        PlannedWork(work=work, size=planned.size, code=planned.code, pieces=work.to_start())
        for work in planned.chained
    ]
    try:
        submission.messages += start(works, cluster, after=After((planned.job,))).messages
    except (SchedulerRefused, SchedulerAway) as error:
        raise type(error)(
            f"{planned.run.name} trains as job {planned.job.job_id}, but "
            f"{without_jobs(planned.run)}. The reason: {error}"
        ) from error


def without_jobs(run: RunFolder) -> str | None:
    """A message about evaluations of a run that have not been submitted; None if all have."""
    works = [
        work for work in evaluations_of(run) if not work.is_done and not work.history().submitted
    ]
    if not works:
        return None
    flags = dict.fromkeys(f"--{metric}" for work in works for metric in work.request.metrics)
    again = command(f"eval {run.name} {' '.join(flags)}", run)
    names = ", ".join(work.name for work in works)
    return f"its evaluation {names} was not submitted: when the training is finished, `{again}`"


def clear(work: Work) -> None:
    """Remove the folder of work whose product is stored elsewhere, once no job writes into it."""
    with contextlib.suppress(SchedulerAway, UsageError):
        for pause_s in PAUSES_S:
            if not living(work.history(), _ask_about([work])):
                if work.folder.exists() and is_mine(work.folder):
                    shutil.rmtree(work.folder, ignore_errors=True)
                return
            time.sleep(pause_s)


@contextlib.contextmanager
def uninterrupted(*, unless: bool = False) -> Iterator[None]:
    """Put Ctrl-C off until the end of the block; a second Ctrl-C ends the block at once.

    Args:
        unless: leave Ctrl-C alone, because the block handles it itself.

    Raises:
        KeyboardInterrupt: at the end, if Ctrl-C was pressed.
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
