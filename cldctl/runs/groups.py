"""Sweeps of trainings: what is missing of a group is started, by as few submissions as possible."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from cld_core.errors import CldError, UsageError
from cld_core.run import RunFolder
from cld_core.run.events import JobRef
from cld_core.run.groups import Group
from cldctl import locks
from cldctl.clusters.base import Cluster
from cldctl.clusters.records import JobSpec

from . import cells, shared_code, snapshot, submit, survey, training
from .cells import Cell
from .options import SubmitOptions
from .resume import About, Continuation, Skipped, ready
from .state import RESUMABLE
from .status import status_or_reason
from .training import Start, uninterrupted


@dataclass(kw_only=True)
class BegunGroup:
    """What was done about each run of a group.

    Attributes:
        runs: all that were asked for.
        jobs: of those that were started, by name of the run; the rest by what they are: ``finished`` or ``alive``.
        new: the names of those that were made.
        evaluations: the names of those that follow, by name of the run.
        skipped: runs that could not be started, and why.
    """

    group: Group
    cluster: Cluster
    runs: list[RunFolder] = field(default_factory=list)
    jobs: dict[str, JobRef] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    alive: list[str] = field(default_factory=list)
    evaluations: dict[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def resumed(self) -> list[str]:
        return [name for name in self.jobs if name not in self.new]


def check(options: SubmitOptions, cluster: Cluster, say: Callable[[str], None] = lambda text: None) -> JobSpec:
    """Refuse what cannot be submitted, before anything is written; returns the job of those cells that are missing.

    Raises:
        CldError: the name is taken, a cell lacks what it needs, or the cluster has no such jobs or not so many.
    """
    group = _group(options)
    if RunFolder(group.root / group.name).exists:
        raise UsageError(f"--name {group.name}: a run has this name. Choose another one for the group.")
    for cell in options.cells:
        submit.require_complete(cell.recipe, options.metrics)
        submit.require_native(cell.recipe, cluster, say)
    starts = [Start(run=RunFolder(group.root / cell.name), recipe=cell.recipe) for cell in missing(options)]
    spec = training.spec_of(group, starts or [_first(options)], cluster, options.parallel)
    if snapshot.kind_for(cluster, options.live_code) == "copy":
        spec = replace(spec, code=shared_code.folder_for(group))
    for array in _by_submission(starts, cluster):
        cluster.check(spec, len(array))
    return spec


def missing(options: SubmitOptions) -> list[Cell]:
    """The cells whose run does not exist, or is not finished.

    Raises:
        UsageError: a name is taken, or a run was submitted with another recipe.
    """
    found = cells.existing(_group(options), options.cells)
    return [cell for cell in options.cells if cell.name not in found or not training.is_finished(found[cell.name])]


def _group(options: SubmitOptions) -> Group:
    assert options.group is not None, "a sweep has a group"
    return options.group


def _first(options: SubmitOptions) -> Start:
    return Start(run=RunFolder(_group(options).root / options.cells[0].name), recipe=options.cells[0].recipe)


def start(options: SubmitOptions, cluster: Cluster, about: About, started: Callable[[RunFolder], None]) -> BegunGroup:
    """Start those runs of a sweep that neither train nor are finished; those that do not exist are made.

    Args:
        about: called before a run continues.
        started: called as soon as the job of a run exists.

    Raises:
        CldError: nothing was started, and what was made for it is removed again.
    """
    group = _group(options)
    begun = BegunGroup(group=group, cluster=cluster)
    try:
        with locks.only_one(group.path, cluster):
            found = cells.existing(group, options.cells)
            begun.runs = [found.get(cell.name) or RunFolder(group.root / cell.name) for cell in options.cells]
            starts = _continued(begun, list(found.values()), Continuation(), about)
            new = [cell for cell in options.cells if cell.name not in found]
            group.add({cell.name: cell.values for cell in new})
            try:
                shared = shared_code.store(
                    group, [cell.recipe for cell in new], options.file, cluster, options.live_code
                )
                for cell in new:
                    one = options.of(cell)
                    starts.append(submit.prepare(submit.create(one), one, cluster, shared))
                    begun.new.append(cell.name)
                _train(begun, _in_order(starts, begun.runs), options.parallel, started)
            except CldError:
                _remove_unsubmitted(group, new)
                raise
    except CldError:
        if not group.runs():
            shutil.rmtree(group.path, ignore_errors=True)
        raise
    return begun


def resume(
    group: Group,
    asked: Continuation,
    cluster: Cluster,
    about: About,
    started: Callable[[RunFolder], None],
) -> BegunGroup:
    """Continue those runs of a group that neither train nor are finished; finished ones with more ``train.steps``.

    Raises:
        CldError: nothing was started.
    """
    begun = BegunGroup(group=group, cluster=cluster, runs=group.runs())
    with locks.only_one(group.path, cluster):
        starts = _continued(begun, begun.runs, asked, about)
        _train(begun, starts, None, started)
    return begun


def _continued(begun: BegunGroup, runs: Sequence[RunFolder], asked: Continuation, about: About) -> list[Start]:
    """Those of the runs that are to continue; what the others are is noted in ``begun``."""
    answers = survey.of_runs(runs)
    answers.require(answers.surveys, f"Which runs of {begun.group.name} are alive is unknown, and nothing was started")
    starts = []
    for run in runs:
        row = status_or_reason(run, answers)
        if not row.is_readable:
            begun.skipped.append(Skipped(run, str(row.reason), 1))
        elif row.state == "FINISHED" and not any(text.startswith("train.steps=") for text in asked.overrides):
            begun.finished.append(run.name)
        elif row.state not in {*RESUMABLE, "FINISHED"} and not _was_abandoned(run):
            begun.alive.append(run.name)
        else:
            try:
                # Who holds the group's lock knows that no other command is still making the run.
                abandoned = _was_abandoned(run)
                starts.append(ready(run, asked, begun.cluster, about, answers, is_abandoned=abandoned))
            except CldError as error:
                begun.skipped.append(Skipped(run, str(error), error.exit_code))
    return starts


def _was_abandoned(run: RunFolder) -> bool:
    """Whether a command made the run and ended before it asked for a job: who holds the group's lock knows."""
    history = run.ledger.history()
    return not (history.request or history.submitted or history.attempts)


def _train(
    begun: BegunGroup, starts: Sequence[Start], parallel: int | None, started: Callable[[RunFolder], None]
) -> None:
    """Submit the trainings, and the evaluations that wait for each.

    Raises:
        CldError: nothing was started. If something was, what fails is noted in ``begun`` instead.
    """
    for array in _by_submission(starts, begun.cluster):
        runs = [start.run for start in array]

        def noted(jobs: Sequence[JobRef], runs: Sequence[RunFolder] = runs) -> None:
            begun.jobs.update({run.name: job for run, job in zip(runs, jobs, strict=True)})
            for run in runs:
                started(run)

        try:
            with uninterrupted(unless=begun.cluster.blocks):
                jobs = training.train_several(begun.group, array, begun.cluster, parallel, noted)
                for one, job in zip(array, jobs, strict=True):
                    training.follow_up(one, begun.cluster, job)
                    begun.evaluations[one.run.name] = tuple(work.name for work in one.evaluations)
        except CldError as error:
            if not begun.jobs:
                for one in starts:
                    snapshot.settle(one.run)
                raise
            begun.skipped += [Skipped(one.run, str(error), error.exit_code) for one in _left(array, begun)]
        if begun.cluster.blocks and any(_was_stopped(run) for run in runs):
            return


def _left(array: Sequence[Start], begun: BegunGroup) -> list[Start]:
    """Those of an array that have no job, or whose evaluation was not started; a failed one that blocked, itself."""
    return [one for one in array if one.run.name not in begun.evaluations]


def _by_submission(starts: Sequence[Start], cluster: Cluster) -> list[list[Start]]:
    """One submission for all of the same size; on a cluster that blocks, one for each, so that one may fail."""
    return [[start] for start in starts] if cluster.blocks else training.of_one_size(starts)


def _was_stopped(run: RunFolder) -> bool:
    """Whether somebody ended the run, and with it the command that trains the others."""
    last = run.ledger.history().last
    return last is not None and last.cause in ("terminated", "cancelled", "timeout", "preempted")


def _remove_unsubmitted(group: Group, made: Sequence[Cell]) -> None:
    """Remove new runs that have no job: their names are free again."""
    for cell in made:
        run = RunFolder(group.root / cell.name)
        if run.exists and not run.ledger.history().submitted:
            shutil.rmtree(run.path)


def _in_order(starts: Sequence[Start], runs: Sequence[RunFolder]) -> list[Start]:
    names = [run.name for run in runs]
    return sorted(starts, key=lambda start: names.index(start.run.name))
