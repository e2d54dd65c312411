"""From options of the command line to works, all checked before anything starts. Writes nothing."""

import contextlib
import functools
import heapq
import itertools
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cld_core import metrics as registry
from cld_core.config import Recipe
from cld_core.config.data import StoredDataSpec
from cld_core.data import store
from cld_core.errors import CldError, DataError, RecipeError, UsageError
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder, code
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import Requested
from cld_core.run.groups import Group, find_group
from cld_core.run.identity import IMAGES, are_other_data
from cld_core.run.recipe import trusted_recipe
from cld_core.run.work import RequestedWork, Training
from cldctl import clusters
from cldctl.clusters.base import Cluster, JobSpec
from cldctl.evals.plan import (
    EvaluationPlan,
    checkpoints,
    make,
    named,
    parse,
    recipe_for_evaluation,
    require_average,
)
from cldctl.jobs import specs

from . import snapshot
from .options import (
    EvalOptions,
    RunCell,
    Say,
    SubmitOptions,
    as_typed,
    existing,
    named_as_typed,
    refuse_twice,
    require_inputs,
    require_native,
    settings,
)
from .start import PlannedTraining, PlannedWork, begun, request_after

if TYPE_CHECKING:
    from cldctl.evals.samplers import Comparison

    from .resume import OnContinue

# The newest runs among which an estimate searches, and the seconds that it may take.
NEWEST = 200
WITHIN_S = 1.0
# The rates of this many comparable runs are enough.
ENOUGH = 5
# The keys of these sections that have an effect on a tuning.
_READ_BY_TUNINGS = (
    "sampling.eps",
    "sampling.denoise",
    "sampling.guidance",
    "sampling.guidance_from",
    "sampling.guidance_to",
    "eval.batch_size",
)


# --- trainings


def check(
    options: SubmitOptions,
    cluster: Cluster,
    say: Say = lambda text: None,
    *,
    is_preview: bool = False,
) -> JobSpec:
    """Check that runs can be submitted.

    Args:
        say: called with warnings about the runs, and with the weights they start from.
        is_preview: nothing is submitted, so that the data of a single run need not be there.

    Returns:
        The job of the runs that are missing.

    Raises:
        CldError: the name is taken, a cell lacks what it needs, the weights that the runs are to
            start from are missing or do not fit, or the cluster has no such jobs or not so many.
    """
    after = options.waits_for(cluster)
    # An unknown metric is refused first.
    _ = options.metrics
    name = options.cells[0].group
    namesake = RunFolder(options.root / name)
    if options.group is None:
        namesake.require_free()
    elif namesake.exists:
        raise UsageError(f"--name {name}: a run has this name. Choose another one for the group.")
    if options.group is None and find_group(options.root, name) is not None:
        raise UsageError(f"--name {name}: a group has this name. Choose another one for the run.")
    existing_runs = existing(options)
    cells = missing(options, existing_runs)
    works = [Training(options.run(cell).path) for cell in cells or options.cells[:1]]
    spec = specs.of_works(
        works,
        options.cells[0].recipe.cluster,
        cluster,
        group=options.group,
        after=after,
        parallel=options.parallel,
    )
    if cells:
        cluster.check(spec, len(cells))
    if is_preview and options.group is None and options.origin is None:
        require_native(options.cells[0].recipe, cluster, say)
    else:
        _require_complete(options, existing_runs, cluster, say)
    return spec


def with_code(spec: JobSpec, options: SubmitOptions, cluster: Cluster) -> JobSpec:
    """The job that `check` returns, with the very folder that its code will be in.

    Raises:
        UsageError: the checkout has too many files or bytes, or git does not answer in time.
        CldError: a plug-in cannot be read.
    """
    plugins = ((path, path) for path in options.cells[0].recipe.plugins)
    checkout = snapshot.of_checkout(options.root.absolute(), cluster, live=options.live_code)
    manifest = checkout.with_plugins(plugins).manifest
    if manifest.kind != "copy":
        return spec
    owner = options.run() if options.group is None else options.group
    return replace(spec, code=code.place_of(owner.path, manifest.code))


def missing(options: SubmitOptions, existing_runs: Mapping[str, RunFolder]) -> list[RunCell]:
    """The cells whose run does not exist, or is not finished.

    Args:
        found: what `existing` returns.
    """
    return [
        cell
        for cell in options.cells
        if cell.name not in existing_runs or not Training(existing_runs[cell.name].path).is_done
    ]


def trainings(
    options: SubmitOptions, cluster: Cluster, about: "OnContinue"
) -> Iterator[PlannedWork]:
    """The training of a new run; of a sweep, of the missing runs and of those to continue.

    Their options have passed `check`.

    Args:
        about: called before a run of a sweep continues.

    Raises:
        CldError: the name has been taken since.
        UsageError, SchedulerAway: the cluster of a run of the sweep cannot be asked whether that is
            alive.
    """
    existing_runs = existing(options)
    continued: dict[str, PlannedWork] = {}
    if options.group is not None:
        from .resume import Continuation, of_group

        for planned in of_group(
            options.group, existing_runs.values(), Continuation(), cluster, about
        ):
            continued[planned.run.name] = planned
    for cell in options.cells:
        if cell.name in existing_runs:
            yield continued[existing_runs[cell.name].name]
            continue
        request = Requested(
            steps=cell.recipe.train.steps,
            given=(*options.given, *settings(cell.values)),
            profile=options.profile,
        )
        yield PlannedTraining(
            work=Training(options.run(cell).path),
            recipe=cell.recipe,
            request=request,
            options=options,
            values=cell.values,
        )


def _require_complete(
    options: SubmitOptions, existing_runs: Mapping[str, RunFolder], cluster: Cluster, say: Say
) -> None:
    """Refuse runs whose data or settings are missing, or whose samples would be useless.

    Args:
        found: the runs that exist already: the weights that these started from are not read.

    Raises:
        RecipeError: data are missing, samples drawn as the recipe says would be useless, or the
            processor emulates the precision.
        UsageError: an evaluation lacks what it needs.
        CldError: the weights do not fit, see `StartingWeights.require_fit`.
    """
    say_once = functools.cache(say)  # The data of a sweep are mostly the same.
    origin = options.origin
    for cell in options.cells:
        recipe = cell.recipe
        require_inputs(recipe, say_once)
        if origin is not None and cell.name not in existing_runs:
            with named(settings(cell.values)):
                say_once(origin.require_fit(recipe, partial=options.partial))
        # Continuing a run that has such settings is allowed: it may do without samples.
        recipe.sampling.require_usable()
        if recipe.sampling.needs_solution:
            raise RecipeError(
                f"sampling.method={recipe.sampling.method} needs a trained network. "
                f"Train with another method, then `cldctl tune RUN --nfe N`."
            )
        request_after(recipe, options.metrics)
        require_native(recipe, cluster, say)


# --- how long a training will take


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of training at the rate of comparable runs.

    Attributes:
        rate: steps per second, the median of ``runs``.
        hours: the sum over all GPUs, or without GPUs, over all CPU cores; ``unit`` says which.
        runs: names of the runs that the rate was measured in, the newest first.
    """

    seconds: float
    rate: float
    hours: float
    unit: str
    runs: tuple[str, ...]


def estimate(root: Path, recipe: Recipe, *, without: str | None = None) -> TimeEstimate | None:
    """How long a training from step 0 takes; None if no comparable run has measured its rate.

    Comparable runs have the same model, data, optimiser, number of ranks and batch size, and both
    or neither use GPUs.

    Args:
        without: the name of the run that is estimated.
    """
    deadline = time.monotonic() + WITHIN_S
    rates: dict[str, float] = {}
    for run in _newest_runs(root, deadline):
        if time.monotonic() > deadline or len(rates) == ENOUGH:
            break
        rate = run.progress().get("steps_per_s") or 0.0
        # A damaged run, or one of another version, is no measurement.
        with contextlib.suppress(Exception):
            if rate > 0 and run.name != without and _rate_key(run.recipe()) == _rate_key(recipe):
                rates[run.name] = rate
    if not rates:
        return None
    rate = statistics.median(rates.values())
    seconds = recipe.train.steps / rate
    size = recipe.cluster
    hours = (size.gpus or size.cores) * seconds / 3600
    unit = "GPU-hours" if size.gpus else "core-hours"
    return TimeEstimate(seconds, rate, hours, unit, tuple(rates))


def _newest_runs(root: Path, deadline: float) -> Iterator[RunFolder]:
    """The runs that were changed last, newest first; those that were seen by ``deadline``."""
    changed: list[tuple[float, str]] = []
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        for entry in itertools.takewhile(lambda _: time.monotonic() < deadline, entries):
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                changed.append((entry.stat(follow_symlinks=False).st_mtime, entry.name))
    return (RunFolder(root / name) for _, name in heapq.nlargest(NEWEST, changed))


def _rate_key(recipe: Recipe) -> tuple[str, int, int, bool]:
    size = recipe.cluster
    return recipe.model_digest(), size.world_size, recipe.train.batch_size, size.uses_gpu


# --- evaluations and tunings


def evaluations(run: RunFolder, options: EvalOptions, say: Say) -> list[PlannedWork]:
    """The requested evaluations of a run.

    Raises:
        CldError: the run belongs to another user, or has no such checkpoint.
        UsageError: an option is wrong, or the plug-in of the run may not be run.
    """
    with named_as_typed(run):
        recipe = _recipe_of(run, options, options.overrides)
        # After the recipe, whose plug-ins may register metrics.
        axes = parse(options.sweep)
        metrics = options.metrics + registry.parse_metrics(options.named, "--metric")
        overrides = _with_samples(options, metrics)
        refuse_twice("--sweep", [axis.key for axis in axes], overrides)
        steps = _steps_of(run, options.checkpoint, say)
        plan = make(run, metrics, steps, overrides, axes, options.shards)
    data = recipe.data
    with contextlib.suppress(DataError):  # A metric that reads them reports it.
        if isinstance(data, StoredDataSpec):
            identity = {IMAGES: store.of(data).split("train").digest}
            if are_other_data(identity, run.ledger.history().data):
                say(f"the examples in {data.path} are not those that {run.name} has trained on")
    return _evaluations_of(run, plan, recipe, options.shards, say)


def evaluations_of_group(
    group: Group, options: EvalOptions, cluster: str | None, say: Say
) -> tuple[dict[str, list[PlannedWork]], list[PlannedWork]]:
    """The requested evaluations of the runs of a group, and the runs that cannot have them.

    The last checkpoint of a run is evaluated only once the run is finished.

    Args:
        cluster: the name of the cluster of all; None for each run's own.

    Returns:
        The evaluations by name of the cluster, and the trainings of the other runs.
    """
    works: dict[str, list[PlannedWork]] = {}
    failed: list[PlannedWork] = []
    unfinished = []
    for run in group.runs():
        training = Training(run.path)
        if options.checkpoint == "last" and not training.is_done:
            unfinished.append(run.name)
            continue
        try:
            where = clusters.chosen(cluster, run).name
            planned = evaluations(run, options, say)
            works.setdefault(where, []).extend(planned)
        except CldError as error:
            failed.append(PlannedWork(work=training, error=error))
    if unfinished:
        say(
            f"not finished, and not evaluated: {', '.join(unfinished)}. "
            f"Run this again later, or pass --checkpoint STEP"
        )
    return works, failed


def comparison(
    run: RunFolder,
    named: Sequence[str],
    nfe: Sequence[int],
    seeds: int | None,
    options: EvalOptions,
    say: Say,
) -> "tuple[list[PlannedWork], Comparison]":
    """The evaluations that compare samplers of a checkpoint of a run.

    Args:
        named: the samplers, as ``--sampler`` names or defines them; all that come with cldctl
            without any.
        nfe: numbers of network evaluations.
        seeds: repetitions with new noise; None for as many as suit the data.
        options: without ``named`` metrics, those that suit the data are meant; ``metrics`` and
            ``sweep`` are not read.

    Raises:
        CldError: the run belongs to another user, or has no such checkpoint.
        UsageError: an option is wrong, the plug-in of the run may not be run, or nothing can be
            compared.
    """
    from cldctl.evals import samplers

    if options.checkpoint == "all":
        raise UsageError("samplers of one checkpoint are compared: --checkpoint last or STEP.")
    options_of_keys = {samplers.NFE: "--nfe"}
    settings = samplers.chosen(named)
    samplers.require_numbers(nfe)
    with named_as_typed(run, options_of_keys):
        # `samplers.make` checks the other keys for each sampler. Plug-ins may register metrics.
        general = [text for text in options.overrides if text.startswith(("cluster.", "plugins="))]
        recipe = _recipe_of(run, options, general)
        metrics, default_seeds = samplers.suited(recipe, options.named)
        overrides = _with_samples(options, metrics)
        (step,) = _steps_of(run, options.checkpoint, say)
        comparison = samplers.make(
            run,
            step,
            overrides,
            options.shards,
            metrics=metrics,
            settings=settings,
            nfe=nfe,
            seeds=seeds or default_seeds,
        )
    for text in comparison.left_out:
        say(as_typed(text, run, options_of_keys))
    return _evaluations_of(run, comparison, recipe, options.shards, say), comparison


def tunings(
    run: RunFolder,
    options: EvalOptions,
    say: Say,
    *,
    nfe: Sequence[int],
    points: int | None,
    budget_min: float | None,
    seed: int,
) -> list[PlannedWork]:
    """The requested tunings, to an intact checkpoint of a run.

    Args:
        options: only overrides, checkpoint and allow_plugin are read.
        nfe: numbers of network evaluations, each for one tuning, which starts from the solution
            for the next smaller number.
        points: draws of the noise to fit to; None for the default of such data.
        budget_min: minutes for each fit; None for no limit.

    Raises:
        CldError: the run belongs to another user.
        UsageError: a key has no effect on a tuning, or the plug-in of the run may not be run.
        NotFoundError: there is no such checkpoint.
    """
    from cld_core.run.tunings import TuneRequest, Tuning

    for text in options.overrides:
        key = text.partition("=")[0]
        if key.startswith(("sampling.", "eval.", "plugins")) and key not in _READ_BY_TUNINGS:
            accepted = ", ".join(_READ_BY_TUNINGS)
            raise UsageError(
                f"'{key}' has no effect on a tuning. Leave it out; there are: {accepted}."
            )
    if options.checkpoint == "all":
        raise UsageError(
            "--checkpoint all: a sampler is tuned to one network. Use 'last' or a step."
        )
    recipe = _recipe_of(run, options, options.overrides)
    (step,) = _steps_of(run, options.checkpoint, say, "tuning to")
    require_average(run, step, recipe.ema.length)
    works = []
    for number in sorted(nfe):
        request = TuneRequest.of(
            recipe, step, number, points=points, budget_min=budget_min, seed=seed
        )
        works.append(Tuning(run.tuned / request.id, request))
    if not all(work.is_done for work in works):
        say(f"step {step}: {works[0].request.cost} for each N")
    return [PlannedWork(work=work, size=recipe.cluster) for work in works]


def _recipe_of(run: RunFolder, options: EvalOptions, overrides: Sequence[str]) -> Recipe:
    """The recipe of a run that is evaluated, with these settings.

    Raises:
        CldError: the run belongs to another user, or its recipe may not be used.
    """
    require_may_change(run.path, "Nothing was started")
    recipe = trusted_recipe(run, allow_plugin=options.allow_plugin)
    return recipe_for_evaluation(recipe, overrides, str(run.recipe_file))


def _with_samples(options: EvalOptions, metrics: Sequence[str]) -> tuple[str, ...]:
    """The overrides, with the key that ``--samples`` sets."""
    if options.samples is None:
        return options.overrides
    key = f"eval.{'samples' if registry.draws_samples(metrics) else 'points'}"
    refuse_twice("--samples", [key], [*options.overrides, *options.sweep])
    return (*options.overrides, f"{key}={options.samples}")


def _steps_of(run: RunFolder, checkpoint: str, say: Say, doing: str = "evaluating") -> list[int]:
    """The steps that ``--checkpoint`` means; reports the damaged checkpoints that it skips.

    Raises:
        NotFoundError: there is no checkpoint, or not the named one.
        CheckpointError: the named checkpoint is damaged.
    """
    steps, damaged = checkpoints(run, checkpoint)
    for entry in damaged:
        say(entry.skipped)
    if damaged:
        say(f"{doing} step {', '.join(map(str, steps))} of {run.name}")
    return steps


def _evaluations_of(
    run: RunFolder, plan: EvaluationPlan, recipe: Recipe, shards: int | None, say: Say
) -> list[PlannedWork]:
    """The evaluations of a plan; reports plug-ins that have changed since the run copied them, and
    numbers of shards that are not ``--shards``."""
    for text in snapshot.changed_plugins(run, recipe.plugins):
        say(text)
    works = [Evaluation(run.evals / request.id, request) for request in plan.requests]
    if shards is not None:
        most = max(request.shards for request in plan.requests)
        if most < shards:
            say(f"--shards {shards}: {most} shards instead, one for each file of rows")
        for work in works:
            before: RequestedWork | None = begun(work)
            if before is not None and before.request.shards != work.request.shards:
                say(f"{work.name} was begun in {before.request.shards} shards and keeps them")
    return [PlannedWork(work=work, size=recipe.cluster, sweep=plan.sweep) for work in works]
