"""Submitting: recipes are frozen into run folders, and their trainings are started."""

import contextlib
import functools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cld_core.config import Recipe
from cld_core.errors import CldError, RecipeError, UsageError
from cld_core.evaluate.request import request_of
from cld_core.run import RunFolder, code
from cld_core.run.evaluations import EvalRequest, Evaluation
from cld_core.run.events import Labelled, Requested
from cld_core.run.groups import find_group
from cld_core.run.identity import identity
from cldctl import locks
from cldctl.clusters.base import Cluster, JobSpec
from cldctl.evals.plan import named
from cldctl.jobs import specs

from . import snapshot, training
from .options import PlannedRun, SubmitOptions, existing, settings
from .resume import Continuation, OnContinue, continued
from .sharded import Say
from .training import Begun, TrainingStart, require_inputs, require_native


def check(options: SubmitOptions, cluster: Cluster, say: Say = lambda text: None) -> JobSpec:
    """Check that runs can be submitted, before anything is written.

    Data and the like of a run that is not `SubmitOptions.is_checked_first` are checked by
    `create_and_start`.

    Args:
        say: called with warnings about the runs of a sweep, and with the weights they start from.

    Returns:
        The job of the runs that are missing.

    Raises:
        CldError: the name is taken, a cell lacks what it needs, the weights that the runs are to
            start from are missing or do not fit, or the cluster has no such jobs or not so many.
    """
    after = options.waits_for(cluster)
    group = options.group
    # An unknown metric is refused first.
    _ = options.metrics
    if group is None:
        options.run().require_free()
        if find_group(options.root, options.run().name) is not None:
            raise UsageError(
                f"--name {options.name}: a group has this name. Choose another one for the run."
            )
    elif RunFolder(options.root / group.name).exists:
        raise UsageError(
            f"--name {group.name}: a run has this name. Choose another one for the group."
        )
    if options.is_checked_first:
        _require_complete(options, cluster, say)

    def start_of(cell: PlannedRun) -> TrainingStart:
        return TrainingStart(
            run=options.run(cell),
            recipe=cell.recipe,
            request=Requested(steps=cell.recipe.train.steps),
        )

    starts = [start_of(cell) for cell in missing(options)]
    runs = [start.run for start in starts] or [options.run()]
    spec = specs.training(
        runs,
        options.cells[0].recipe,
        cluster,
        group=group,
        after=after,
        parallel=options.parallel,
    )
    if starts:
        cluster.check(spec, len(starts))
    return spec


def with_code(spec: JobSpec, options: SubmitOptions, cluster: Cluster) -> JobSpec:
    """The job that `check` returns, with the very folder that its code will be in.

    Raises:
        CldError: as `snapshot.of_checkout`.
    """
    plugins = ((path, path) for path in options.cells[0].recipe.plugins)
    checkout = snapshot.of_checkout(options.root.absolute(), cluster, live=options.live_code)
    manifest = checkout.with_plugins(plugins).manifest
    if manifest.kind != "copy":
        return spec
    owner = options.run() if options.group is None else options.group
    return replace(spec, code=code.place_of(owner.path, manifest.code))


def missing(options: SubmitOptions) -> list[PlannedRun]:
    """The cells whose run does not exist, or is not finished.

    Raises:
        UsageError: a name is taken, or a run was submitted with another recipe.
    """
    found = existing(options)
    return [
        cell
        for cell in options.cells
        if cell.name not in found or not training.is_finished(found[cell.name])
    ]


def following(recipe: Recipe, metrics: tuple[str, ...]) -> EvalRequest | None:
    """The request of the evaluation that follows the training; None without metrics.

    Raises:
        UsageError: it lacks what it needs.
    """
    if not metrics:
        return None
    return request_of(recipe, metrics, recipe.train.steps, recipe.cluster.world_size)


def _require_complete(options: SubmitOptions, cluster: Cluster, say: Say) -> None:
    """Refuse new runs whose data or settings are missing, or whose samples would be useless.

    Raises:
        RecipeError, UsageError
        CldError: the weights that they are to start from do not fit, see `Origin.require_fit`.
    """
    once = functools.cache(say)  # The data of a sweep are mostly the same.
    origin = options.origin
    found = existing(options)
    for cell in options.cells:
        recipe = cell.recipe
        require_inputs(recipe, once)
        if origin is not None and cell.name not in found:
            with named(settings(cell.values)):
                once(origin.require_fit(recipe, partial=options.partial))
        # Continuing a run that has such settings is allowed: it may do without samples.
        recipe.sampling.require_usable()
        if recipe.sampling.needs_solution:
            raise RecipeError(
                f"sampling.method={recipe.sampling.method} needs a trained network. "
                f"Train with another method, then `cldctl tune RUN --nfe N`."
            )
        following(recipe, options.metrics)
        require_native(recipe, cluster, say)


def create_and_start(
    options: SubmitOptions,
    cluster: Cluster,
    about: OnContinue = lambda *what: None,
    started: Callable[[RunFolder], None] = lambda run: None,
) -> Begun:
    """Create the folder of a run, with the evaluation that follows, and start its training.

    Of a sweep, missing runs are created, and all runs that neither train nor are finished are
    started.

    Args:
        about: called before a run of a sweep continues.
        started: called as soon as the job of a run exists, before a blocking cluster begins.

    Raises:
        RecipeError: data are missing, samples drawn as the recipe says would be useless, or the
            processor emulates the precision.
        UsageError: the name is taken, or an evaluation lacks what it needs.
        CldError: nothing was started, and what was made for it is removed again: names are free.
    """
    group = options.group
    after = options.waits_for(cluster)
    begun = Begun(
        cluster=cluster, group=group, parallel=options.parallel, after=after, started=started
    )
    if not options.is_checked_first:
        _require_complete(options, cluster, begun.said.append)
    with contextlib.ExitStack() as stack:
        if group is not None:
            stack.enter_context(locks.only_one(group.path, cluster, makes=True))

        def undo(kind: object, error: BaseException | None, trace: object) -> None:
            # The locks of new runs are released before: a network file system keeps open files.
            if isinstance(error, CldError):
                _remove_unsubmitted(options, begun)

        stack.push(undo)
        found = existing(options)
        begun.runs = [found.get(cell.name) or options.run(cell) for cell in options.cells]
        starts = continued(begun, list(found.values()), Continuation(), about) if found else []
        new = [cell for cell in options.cells if cell.name not in found]
        if group is not None:
            group.add({cell.name: cell.values for cell in new})
        if new:
            source = snapshot.of_checkout(options.root.absolute(), cluster, live=options.live_code)
        like = None
        for run in found.values():
            with contextlib.suppress(OSError):
                like = like or code.importable(code.folder_of(run.path))
        for cell in new:
            run = _create(options, cell)
            begun.found[run.name] = "new"
            if group is None:
                # `status` shows from here on that a command is at work: storing code takes time.
                stack.enter_context(locks.only_one(run.path, cluster))
            stored = snapshot.store(
                run.path, source.with_plugins((path, path) for path in cell.recipe.plugins), like
            )
            starts.append(_prepare(run, options, cell, cluster, stored))
            like = stored
        order = [run.name for run in begun.runs]
        starts.sort(key=lambda start: order.index(start.run.name))
        training.train(begun, starts)
    return begun


def _create(options: SubmitOptions, cell: PlannedRun) -> RunFolder:
    """The folder of a new run.

    Raises:
        UsageError: the name is taken.
        CldError: it cannot be made.
    """
    group = None if options.group is None else options.group.name
    about = identity(cell.recipe.name, options.file, group=group, sweep=cell.values)
    if (origin := options.origin) is not None:
        about["started_from"] = origin.identity
    return RunFolder.create(options.run(cell).path, cell.recipe, about)


def _prepare(
    run: RunFolder, options: SubmitOptions, cell: PlannedRun, cluster: Cluster, stored: Path
) -> TrainingStart:
    """Note tags, weights and the following evaluation in the folder of a new run.

    Args:
        stored: the folder of its code.

    Returns:
        The start of its training, whose recipe names the run's copies of its plug-ins.
    """
    recipe = replace(cell.recipe, plugins=code.with_copies(cell.recipe.plugins, stored))
    if options.tags or options.note:
        run.ledger.append(Labelled(note=options.note or None, add=options.tags))
    if options.origin is not None:
        options.origin.begin(run, cell.recipe)
    chained = following(recipe, options.metrics)
    request = Requested(
        steps=recipe.train.steps,
        given=(*options.given, *settings(cell.values)),
        profile=options.profile,
    )
    evaluations = () if chained is None else (Evaluation(chained.save(run)),)
    return TrainingStart(
        run=run, recipe=recipe, request=request, stored=stored, evaluations=evaluations
    )


def _remove_unsubmitted(options: SubmitOptions, begun: Begun) -> None:
    """Remove new runs that have no job, and a group without runs: their names are free again."""
    for run in begun.runs:
        if begun.found.get(run.name) == "new" and not run.ledger.history().submitted:
            shutil.rmtree(run.path)
    if options.group is not None and not options.group.runs():
        shutil.rmtree(options.group.path, ignore_errors=True)
