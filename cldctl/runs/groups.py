"""Sweeps of trainings: what is missing of a group is started, by as few submissions as possible."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cld_core.checkpoint.verify import DamagedCheckpoint
from cld_core.errors import CldError, UsageError
from cld_core.recipe import Recipe
from cld_core.run import RunFolder
from cld_core.run.code import Manifest
from cld_core.run.events import JobRef
from cld_core.run.groups import Group
from cldctl.clusters.base import Cluster
from cldctl.clusters.records import JobSpec

from . import arrays, cells, drafts, home, requests, shared_code, submit, survey
from .arrays import Start
from .asked import Asked
from .cells import Cell
from .resume import Continuation, Skipped, ready
from .state import RESUMABLE
from .status import status_or_reason
from .submit import Wanted
from .survey import Answers
from .uninterrupted import uninterrupted

# As `resume.About`, with the run before all else.
About = Callable[[RunFolder, Recipe, int, Sequence[DamagedCheckpoint], Sequence[str]], None]


@dataclass(frozen=True, kw_only=True)
class WantedGroup(Asked):
    """A sweep of trainings, as somebody asked for it."""

    group: Group
    cells: tuple[Cell, ...]
    file: Path
    parallel: int | None = None

    def of(self, cell: Cell) -> Wanted:
        """One of its runs."""
        given = (*self.given, *(f"{key}={value}" for key, value in cell.values.items()))
        return Wanted(
            path=self.group.root / cell.name,
            recipe=cell.recipe,
            file=self.file,
            group=self.group.name,
            sweep=cell.values,
            **{**self.common(), "given": given},
        )


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


def check(wanted: WantedGroup, cluster: Cluster) -> JobSpec:
    """Refuse what cannot be submitted, before anything is written; returns the job of those cells that are missing.

    Raises:
        CldError: the name is taken, a cell lacks what it needs, or the cluster has no such jobs or not so many.
    """
    group = wanted.group
    if RunFolder(group.root / group.name).exists:
        raise UsageError(f"--name {group.name}: a run has this name. Choose another one for the group.")
    for cell in wanted.cells:
        submit.require_complete(cell.recipe, wanted.metrics)
    starts = [Start(run=RunFolder(group.root / cell.name), recipe=cell.recipe) for cell in missing(wanted)]
    spec = arrays.spec_of(group, starts or [_first(wanted)], cluster, wanted.parallel)
    if drafts.kind_for(cluster, wanted.live_code) == "copy":
        spec = replace(spec, code=shared_code.folder_for(group))
    for array in _by_submission(starts, cluster):
        cluster.check(spec, len(array))
    return spec


def missing(wanted: WantedGroup) -> list[Cell]:
    """The cells whose run does not exist, or is not finished.

    Raises:
        UsageError: a name is taken, or a run was submitted with another recipe.
    """
    found = cells.existing(wanted.group, wanted.cells)
    return [cell for cell in wanted.cells if cell.name not in found or not requests.is_finished(found[cell.name])]


def _first(wanted: WantedGroup) -> Start:
    return Start(run=RunFolder(wanted.group.root / wanted.cells[0].name), recipe=wanted.cells[0].recipe)


def start(wanted: WantedGroup, cluster: Cluster, about: About, started: Callable[[RunFolder], None]) -> BegunGroup:
    """Start those runs of a sweep that neither train nor are finished; those that do not exist are made.

    Args:
        about: called before a run continues.
        started: called as soon as the job of a run exists.

    Raises:
        CldError: nothing was started, and what was made for it is removed again.
    """
    group = wanted.group
    begun = BegunGroup(group=group, cluster=cluster)
    try:
        with home.only_one(group.path, cluster):
            found = cells.existing(group, wanted.cells)
            begun.runs = [found.get(cell.name) or RunFolder(group.root / cell.name) for cell in wanted.cells]
            starts = _continued(begun, list(found.values()), Continuation(), about)
            new = [cell for cell in wanted.cells if cell.name not in found]
            group.add({cell.name: cell.values for cell in new})
            try:
                shared = shared_code.store(group, [cell.recipe for cell in new], wanted.file, cluster, wanted.live_code)
                for cell in new:
                    starts.append(_made(wanted, cell, cluster, shared))
                    begun.new.append(cell.name)
                _train(begun, _in_order(starts, begun.runs), wanted.parallel, started)
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
    with home.only_one(group.path, cluster):
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
                starts.append(_continuation(run, asked, begun.cluster, about, answers))
            except CldError as error:
                begun.skipped.append(Skipped(run, str(error), error.exit_code))
    return starts


def _continuation(run: RunFolder, asked: Continuation, cluster: Cluster, about: About, answers: Answers) -> Start:
    def tell(recipe: Recipe, step: int, damaged: Sequence[DamagedCheckpoint], warnings: Sequence[str]) -> None:
        about(run, recipe, step, damaged, warnings)

    # Who holds the group's lock knows that no other command is still making the run.
    continued = ready(run, asked, cluster, tell, answers, is_abandoned=_was_abandoned(run))
    return Start(
        run=run,
        recipe=continued.recipe,
        evaluations=continued.evaluations,
        overrides=continued.overrides,
        profile=asked.profile,
        code=continued.code,
    )


def _was_abandoned(run: RunFolder) -> bool:
    """Whether a command made the run and ended before it asked for a job: who holds the group's lock knows."""
    history = run.ledger.history()
    return not (history.request or history.submitted or history.attempts)


def _made(wanted: WantedGroup, cell: Cell, cluster: Cluster, shared: Manifest | None) -> Start:
    one = wanted.of(cell)
    run = submit.create(one)
    recipe, evaluations, code = submit.prepare(run, one, cluster, shared)
    return Start(
        run=run,
        recipe=recipe,
        evaluations=tuple(evaluations),
        given=one.given,
        profile=one.profile,
        code=code,
        is_new=True,
    )


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
                jobs = arrays.train(begun.group, array, begun.cluster, parallel, noted)
                for one, job in zip(array, jobs, strict=True):
                    requests.follow_up(one.run, one.recipe, begun.cluster, one.evaluations, job)
                    begun.evaluations[one.run.name] = tuple(work.name for work in one.evaluations)
        except CldError as error:
            if not begun.jobs:
                for one in starts:
                    drafts.settle(one.run)
                raise
            begun.skipped += [Skipped(one.run, str(error), error.exit_code) for one in _left(array, begun)]
        if begun.cluster.blocks and any(_was_stopped(run) for run in runs):
            return


def _left(array: Sequence[Start], begun: BegunGroup) -> list[Start]:
    """Those of an array that have no job, or whose evaluation was not started; a failed one that blocked, itself."""
    return [one for one in array if one.run.name not in begun.evaluations]


def _by_submission(starts: Sequence[Start], cluster: Cluster) -> list[list[Start]]:
    """One submission for all of the same size; on a cluster that blocks, one for each, so that one may fail."""
    return [[start] for start in starts] if cluster.blocks else arrays.of_one_size(starts)


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
