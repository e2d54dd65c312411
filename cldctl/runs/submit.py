"""Submitting: a recipe is frozen into a run folder, and its training is started."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from cld_core import processor
from cld_core.config import Recipe
from cld_core.data import store
from cld_core.errors import CldError, DataError, RecipeError
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.request import EvalRequest
from cld_core.run import RunFolder, code
from cld_core.run.code import Manifest
from cld_core.run.events import JobRef, Labelled
from cld_core.run.folder import check_name
from cld_core.run.identity import identity
from cldctl import locks
from cldctl.clusters.base import Cluster
from cldctl.clusters.records import JobSpec
from cldctl.jobs import specs

from . import shared_code, snapshot
from .options import SubmitOptions
from .training import Start, train


@dataclass(frozen=True)
class Begun:
    """A training that was started, and the names of the evaluations that follow it.

    Attributes:
        said: what people should know about how the evaluations were divided.
    """

    run: RunFolder
    job: JobRef
    cluster: Cluster
    evaluations: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


def check(options: SubmitOptions, cluster: Cluster) -> JobSpec:
    """Refuse what cannot be submitted, before anything is written; returns the job that trains.

    Raises:
        RecipeError: the cluster has no such jobs.
        UsageError: the name cannot be used or is taken.
    """
    path, recipe = options.path, options.recipe
    check_name(path.name)
    RunFolder(path).require_free()
    spec = specs.training(RunFolder(path), recipe, cluster)
    if snapshot.kind_for(cluster, options.live_code) == "copy":
        spec = replace(spec, code=code.own_folder(path))
    cluster.check(spec)
    return spec


def following(recipe: Recipe, metrics: tuple[str, ...]) -> EvalRequest | None:
    """The request of the evaluation that follows the training; None without metrics.

    Raises:
        UsageError: it lacks what it needs.
    """
    return EvalRequest.of(recipe, metrics, recipe.train.steps, recipe.cluster.world_size) if metrics else None


def submit(
    options: SubmitOptions,
    cluster: Cluster,
    started: Callable[[RunFolder], None] = lambda run: None,
) -> Begun:
    """Make a run's folder, with the evaluation that follows, and start its training.

    Args:
        started: called as soon as the job exists, before a blocking cluster begins.

    Raises:
        RecipeError: data are missing, samples drawn as the recipe says would be useless, or the processor emulates the
            precision.
        UsageError: the name is taken, or an evaluation lacks what it needs.
        CldError: no job exists, and the run's folder is removed again: its name is free.
    """
    recipe = options.recipe
    said: list[str] = []
    require_complete(recipe, options.metrics)
    require_native(recipe, cluster, said.append)
    run = create(options)
    try:
        # From here on, others see that a command is at work: the code may take long to store.
        with locks.only_one(run.path, cluster):
            start = prepare(run, options, cluster)
            job = train(start, cluster, lambda job: started(run), said.append)
    except CldError:
        if not run.ledger.history().submitted:
            shutil.rmtree(run.path)
        raise
    return Begun(run, job, cluster, tuple(work.name for work in start.evaluations), tuple(said))


def require_complete(recipe: Recipe, metrics: tuple[str, ...]) -> None:
    """Refuse a new run that lacks what it or the evaluation that follows needs, or whose samples would be useless.

    Raises:
        RecipeError, UsageError
    """
    require_inputs(recipe)
    # Continuing a run that has such settings is allowed: it may do without samples.
    recipe.sampling.require_usable()
    if recipe.sampling.needs_solution:
        text = f"sampling.method={recipe.sampling.method} needs a trained network"
        raise RecipeError(f"{text}. Train with another method, then `cldctl tune RUN --nfe N`.")
    following(recipe, metrics)


def create(options: SubmitOptions) -> RunFolder:
    """The folder of a new run.

    Raises:
        UsageError: the name is taken.
        CldError: it cannot be made.
    """
    group = None if options.group is None else options.group.name
    named = identity(options.recipe.name, options.file, group=group, sweep=options.sweep)
    return RunFolder.create(options.path, options.recipe, named)


def prepare(run: RunFolder, options: SubmitOptions, cluster: Cluster, shared: Manifest | None = None) -> Start:
    """Fill a new run's folder with all that was asked for.

    Args:
        shared: the code of the run's group; None to store the code in the run's own folder.

    Returns:
        With the recipe that has the run's copies of its plug-ins, and the evaluation that follows, if there is one.

    Raises:
        CldError: the code cannot be stored.
    """
    recipe = options.recipe
    if shared is not None:
        shared_code.point(run, shared)
    stored = shared or snapshot.store(run, recipe, cluster, snapshot.Wish(live=options.live_code))
    if stored.plugins:
        # From here on with the copies.
        recipe = run.recipe(with_plugins=True)
    if options.tags or options.note:
        run.ledger.append(Labelled(note=options.note or None, add=options.tags))
    chained = following(recipe, options.metrics)
    return Start(
        run=run,
        recipe=recipe,
        evaluations=() if chained is None else (Evaluation(chained.save(run)),),
        given=options.given,
        profile=options.profile,
        code=snapshot.requested(stored, cluster),
    )


def require_inputs(recipe: Recipe) -> None:
    """Refuse a recipe whose data, loggers, or what its periodic evaluations need, is missing.

    Raises:
        UsageError
        RecipeError: data are not there, or a logger's package is not installed.
    """
    recipe.monitor.require_installed()
    try:
        store.require(recipe.data)
    except DataError as error:
        # Nothing has failed yet: the recipe names what is not there.
        raise RecipeError(f"'data.path': {error}") from error
    EvalRequest.periodic(recipe, "fid")
    EvalRequest.periodic(recipe, "elbo")


def require_native(recipe: Recipe, cluster: Cluster, say: Callable[[str], None]) -> None:
    """Refuse to train on this machine in a precision that its processor emulates, unless `train.emulated` allows it.

    Raises:
        RecipeError
    """
    precision = recipe.train.precision
    if precision == "fp32" or recipe.cluster.uses_gpu:
        return
    if cluster.queues:
        say(f"{processor.warning(precision, 'most processors')} unless those of the nodes have instructions for it.")
    elif processor.emulates(precision):
        warning = processor.warning(precision)
        if not recipe.train.emulated:
            raise RecipeError(f"{warning}, or train.emulated=true.")
        say(f"{warning}.")
