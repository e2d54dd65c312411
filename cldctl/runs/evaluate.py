"""Evaluations and tunings of runs: plan what is requested, and start what is missing of it."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from cld_core import metrics as registry
from cld_core.config import Recipe
from cld_core.config.cluster import ClusterSpec
from cld_core.config.data import StoredDataSpec
from cld_core.data import store
from cld_core.errors import CldError, DataError, NotFoundError, UsageError
from cld_core.ownership import require_may_change
from cld_core.run import Ledger, RunFolder
from cld_core.run.code import Manifest, with_copies
from cld_core.run.evaluations import Evaluation, Sweep
from cld_core.run.events import JobRef
from cld_core.run.groups import Group
from cld_core.run.identity import IMAGES, are_other_data
from cld_core.run.recipe import trusted_recipe
from cld_core.run.state import DividedFacts, state_of
from cld_core.run.tunings import TuneRequest, Tuning
from cld_core.run.work import RequestedWork
from cld_core.sanitize import one_line
from cldctl import clusters
from cldctl.clusters.base import Cluster, SchedulerAway, SchedulerRefused
from cldctl.evals import samplers
from cldctl.evals.plan import (
    EvaluationPlan,
    checkpoints,
    make,
    parse,
    recipe_for_evaluation,
    require_average,
)
from cldctl.jobs import specs

from . import sharded, snapshot, training
from .options import as_typed, named_as_typed, refuse_twice
from .sharded import Say
from .survey import Answers
from .training import Skipped, is_finished

# The keys of these sections that have an effect on a tuning.
_READ_BY_TUNINGS = (
    "sampling.eps",
    "sampling.denoise",
    "sampling.guidance",
    "sampling.guidance_from",
    "sampling.guidance_to",
    "eval.batch_size",
)
# What `start` finds, or does.
STATES = ("already complete", "being computed", "started")


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Requested evaluations of a run, as typed on the command line.

    Attributes:
        named: further metrics, lists of names with commas; plug-ins may register them.
        samples: number of samples, or of test points if none are drawn; None for that of the
            recipe.
        sweep: settings of which each is evaluated, as "KEY=a,b,c".
        checkpoint: "last", "all" or a step.
        cluster: None for the run's own.
        allow_plugin: whether code that others can write may run.
    """

    metrics: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    samples: int | None = None
    sweep: tuple[str, ...] = ()
    checkpoint: str = "last"
    shards: int | None = None
    cluster: str | None = None
    allow_plugin: bool = False


@dataclass(kw_only=True)
class Planned:
    """Requested evaluations or tunings of a run.

    What is missing is computed by jobs of the size of its training.

    Attributes:
        works: as they are requested; their folders need not exist.
        sweep: the table whose cells they are.
        together: whether one task computes all of them, one after another.
        found: by name, one of `STATES`, filled in by `start`.
        job: the one that `start` has submitted.
        said: messages about how the work was divided.
    """

    run: RunFolder
    works: tuple[RequestedWork, ...]
    cluster: Cluster
    size: ClusterSpec
    sweep: Sweep | None = None
    together: bool = False
    found: dict[str, str] = field(default_factory=dict)
    job: JobRef | None = None
    said: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, run: RunFolder, plan: EvaluationPlan, cluster: Cluster, size: ClusterSpec) -> Self:
        works = tuple(Evaluation(run.evals / request.id, request) for request in plan.requests)
        return cls(run=run, works=works, cluster=cluster, size=size, sweep=plan.sweep)

    @property
    def names(self) -> list[str]:
        return [work.name for work in self.works]

    def those(self, state: str) -> list[str]:
        """The names of works that `start` found in a state."""
        return [name for name, found in self.found.items() if found == state]

    @property
    def is_over(self) -> bool:
        return all(state == "already complete" for state in self.found.values())


def plan(run: RunFolder, options: EvalOptions, say: Say) -> Planned:
    """The requested evaluations of a run. Writes nothing.

    Raises:
        CldError: the run belongs to another user, or has no such checkpoint.
        UsageError: an option is wrong, or the plug-in of the run may not be run.
    """
    with named_as_typed(run):
        cluster, recipe = _place(run, options, options.overrides)
        # After the recipe, whose plug-ins may register metrics.
        axes = parse(options.sweep)
        metrics = options.metrics + registry.parse_metrics(options.named, "--metric")
        overrides = _with_samples(options, metrics)
        refuse_twice("--sweep", [axis.key for axis in axes], overrides)
        steps = steps_of(run, options.checkpoint, say)
        evaluations = make(run, metrics, steps, overrides, axes, options.shards)
    planned = Planned.of(run, evaluations, cluster, recipe.cluster)
    stale = snapshot.changed_plugins(run, recipe.plugins)
    for text in (*stale, *_other_images(run, recipe), *_division(planned, options.shards)):
        say(text)
    return planned


def _with_samples(options: EvalOptions, metrics: Sequence[str]) -> tuple[str, ...]:
    """The overrides, with the key that ``--samples`` sets."""
    if options.samples is None:
        return options.overrides
    key = f"eval.{'samples' if registry.draws_samples(metrics) else 'points'}"
    refuse_twice("--samples", [key], [*options.overrides, *options.sweep])
    return (*options.overrides, f"{key}={options.samples}")


def plan_group(group: Group, options: EvalOptions, say: Say) -> tuple[list[Planned], list[Skipped]]:
    """The requested evaluations of the runs of a group, and the runs that cannot have them.

    The last checkpoint of a run is evaluated only once the run is finished.
    """
    planned: list[Planned] = []
    skipped: list[Skipped] = []
    runs = group.runs()
    ready = [run for run in runs if options.checkpoint != "last" or is_finished(run)]
    if left := [run.name for run in runs if run not in ready]:
        say(
            f"not finished, and not evaluated: {', '.join(left)}. "
            f"Run this again later, or pass --checkpoint STEP"
        )
    for run in ready:
        try:
            planned.append(plan(run, options, say))
        except CldError as error:
            skipped.append(Skipped(run, str(error), error.exit_code))
    return planned, skipped


def plan_samplers(
    run: RunFolder,
    named: Sequence[str],
    nfe: Sequence[int],
    seeds: int | None,
    options: EvalOptions,
    say: Say,
) -> tuple[samplers.Comparison, Planned]:
    """The evaluations that compare samplers of a checkpoint of a run. Writes nothing.

    Args:
        named: the samplers, as ``--sampler`` names or defines them; all that come with cldctl
            without any.
        nfe: numbers of network evaluations.
        seeds: repetitions with new noise; None for as many as suit the data.
        options: without ``named`` metrics, those that suit the data are meant; ``metrics`` and
            ``sweep`` are not read.

    Raises:
        CldError: as `plan`, or nothing can be compared.
    """
    if options.checkpoint == "all":
        raise UsageError("samplers of one checkpoint are compared: --checkpoint last or STEP.")
    options_of_keys = {samplers.NFE: "--nfe"}
    settings = samplers.chosen(named)
    samplers.require_numbers(nfe)
    with named_as_typed(run, options_of_keys):
        # `samplers.make` checks the other keys for each sampler. Plug-ins may register metrics.
        general = [text for text in options.overrides if text.startswith(("cluster.", "plugins="))]
        cluster, recipe = _place(run, options, general)
        metrics, default_seeds = samplers.suited(recipe, options.named)
        overrides = _with_samples(options, metrics)
        (step,) = steps_of(run, options.checkpoint, say)
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
    planned = Planned.of(run, comparison, cluster, recipe.cluster)
    left_out = (as_typed(text, run, options_of_keys) for text in comparison.left_out)
    stale = snapshot.changed_plugins(run, recipe.plugins)
    for text in (*left_out, *stale, *_division(planned, options.shards)):
        say(text)
    return comparison, planned


def plan_tunings(
    run: RunFolder,
    options: EvalOptions,
    say: Say,
    *,
    nfe: Sequence[int],
    points: int | None,
    budget_min: float | None,
    seed: int,
) -> Planned:
    """The requested tunings, to an intact checkpoint of a run. Writes nothing.

    Args:
        options: of which overrides, checkpoint, cluster and allow_plugin are read.
        nfe: numbers of network evaluations, each for one tuning, which starts from the solution
            for the next smaller number.
        points: draws of the noise to fit to; None for the default of such data.
        budget_min: minutes for each fit; None for no limit.

    Raises:
        CldError: the run belongs to another user.
        UsageError: a key has no effect on a tuning, or the plug-in of the run may not be run.
        NotFoundError: there is no such checkpoint.
    """
    for text in options.overrides:
        key = text.partition("=")[0]
        if key.startswith(("sampling.", "eval.", "plugins")) and key not in _READ_BY_TUNINGS:
            known = ", ".join(_READ_BY_TUNINGS)
            raise UsageError(
                f"'{key}' has no effect on a tuning. Leave it out; there are: {known}."
            )
    if options.checkpoint == "all":
        raise UsageError(
            "--checkpoint all: a sampler is tuned to one network. Use 'last' or a step."
        )
    cluster, recipe = _place(run, options, options.overrides)
    (step,) = steps_of(run, options.checkpoint, say, "tuning to")
    require_average(run, step, recipe.ema.length)
    works = []
    for number in sorted(nfe):
        request = TuneRequest.of(
            recipe, step, number, points=points, budget_min=budget_min, seed=seed
        )
        works.append(Tuning(run.tuned / request.id, request))
    if not all(work.is_done for work in works):
        say(f"step {step}: {works[0].request.cost} for each N")
    return Planned(run=run, works=tuple(works), cluster=cluster, size=recipe.cluster, together=True)


def minutes(text: str) -> float | None:
    """The minutes of ``--budget``; None for no limit.

    Raises:
        UsageError: it is not a number of them.
    """
    try:
        return None if text.strip() == "none" else float(text)
    except ValueError:
        raise UsageError(
            f"--budget {one_line(text)}: that is not a number of minutes. "
            f"Write a number of them, or none to set no limit."
        ) from None


def _place(
    run: RunFolder, options: EvalOptions, overrides: Sequence[str]
) -> tuple[Cluster, Recipe]:
    """The cluster that evaluates a run, and its recipe with these settings.

    Raises:
        CldError: the run belongs to another user, or its recipe may not be used.
    """
    require_may_change(run.path, "Nothing was started")
    cluster = clusters.chosen(options.cluster, run)
    recipe = trusted_recipe(run, allow_plugin=options.allow_plugin)
    return cluster, recipe_for_evaluation(recipe, overrides, str(run.recipe_file))


def steps_of(run: RunFolder, checkpoint: str, say: Say, doing: str = "evaluating") -> list[int]:
    """The steps that ``--checkpoint`` means; reports the damaged checkpoints that it skips.

    Raises:
        NotFoundError, CheckpointError: as `plan.checkpoints`.
    """
    steps, damaged = checkpoints(run, checkpoint)
    for entry in damaged:
        say(entry.skipped)
    if damaged:
        say(f"{doing} step {', '.join(map(str, steps))} of {run.name}")
    return steps


def start(
    planned: Iterable[Planned], group: Group | None = None, parallel: int | None = None
) -> Iterator[Planned]:
    """Start what is neither complete nor being computed, and lost tasks of what is being computed.

    Works of the same cluster and size of job, as those of a group usually are, share a submission.

    Args:
        group: the output goes into its folder; None for the folder of the first run of a
            submission.

    Raises:
        RecipeError: the cluster has no such jobs. Nothing is written.
        SchedulerRefused, SchedulerAway: nothing was started, and what was made for it is removed
            again.
        UsageError: a job of one of them belongs to a cluster that this cldctl does not know.
    """
    alike: dict[tuple[str, ClusterSpec], list[Planned]] = {}
    for plan_of_run in planned:
        key = (plan_of_run.cluster.name, plan_of_run.size)
        alike.setdefault(key, []).append(plan_of_run)
    for plans in alike.values():
        first = plans[0]
        job: JobRef | None = None
        logs = None
        if group is not None:
            logs = group.logs
        elif first.sweep is not None:
            logs = first.run.evals / first.sweep.id / "logs"
        missing: list[tuple[RequestedWork, Sequence[int]]] = []
        new_folders: list[Path] = []
        messages: list[str] = []
        with training.locked([plan_of_run.run for plan_of_run in plans], first.cluster):
            try:
                for plan_of_run in plans:
                    missing += _prepare(plan_of_run, new_folders)
                if missing:
                    spec = specs.sharded(
                        [work.folder for work, _ in missing],
                        first.size,
                        first.cluster,
                        run=next(other.run for other in plans if other.those("started")),
                        logs=logs,
                        parallel=parallel,
                    )
                    job = sharded.start(
                        missing, first.cluster, spec, first.size, first.together, messages.append
                    )
            # After other errors there may be a job, which needs the folders.
            except (UsageError, SchedulerRefused, SchedulerAway):
                for path in new_folders:
                    if not Ledger(path / "jobs.jsonl").events():
                        shutil.rmtree(path, ignore_errors=True)
                raise
        for plan_of_run in plans:
            if plan_of_run.those("started"):
                plan_of_run.job = job
                # One of them has the messages about the submission.
                plan_of_run.said = messages
                messages = []
            yield plan_of_run


def _state(work: RequestedWork, answers: Answers) -> str:
    return state_of(work.ledger.history(), DividedFacts(work), answers).name


def _prepare(planned: Planned, new_folders: list[Path]) -> list[tuple[RequestedWork, list[int]]]:
    """Find the state of works, and store the requests of those to start.

    Args:
        new_folders: folders that are created are appended to it.

    Returns:
        The works to start, and the shards of each.
    """
    run = planned.run
    sweep = planned.sweep
    begun = [_begun(work) for work in planned.works]
    answers = sharded.ask_about(work for work in begun if work is not None and not work.is_done)
    states = ["STOPPED" if work is None else _state(work, answers) for work in begun]
    folders = [work.folder for work in planned.works]
    if "STOPPED" in states:
        # Nothing is written for jobs that the cluster does not have.
        planned.cluster.check(specs.sharded(folders[:1], planned.size, planned.cluster, run=run))
    if sweep is not None:
        folders.append(run.evals / sweep.id)
    new_folders += [folder for folder in folders if not folder.exists()]
    if sweep is not None:
        sweep.save(run)
    missing: list[tuple[RequestedWork, list[int]]] = []
    for requested, known, state in zip(planned.works, begun, states, strict=True):
        work = requested
        shards: list[int] = []
        found = "already complete"
        if state == "STOPPED":
            # A request that was damaged is written again: its product may be there already.
            work = type(requested)(_with_copies(run, requested.request).store(requested.folder))
            shards = work.to_start()
        elif known is not None and state in ("RUNNING", "PENDING"):
            work = known
            shards = sharded.unclaimed(work, answers)
            found = "being computed"
            if planned.together:
                # A tuning that is started again goes on to the newest budget.
                work.request.store(work.folder)
        if shards:
            missing.append((work, shards))
        planned.found[requested.name] = "started" if shards else found
    return missing


def _with_copies(run: RunFolder, request: Any) -> Any:
    """A request whose plug-ins are copies in the run's folder, including those typed just now."""
    files = getattr(request, "files", {})
    own = run.recipe().plugins
    new = [path for place, path in files.items() if place.startswith("plugin ") and path not in own]
    if not new:
        return request
    code = snapshot.Code(Manifest(kind="process")).with_plugins((path, path) for path in new)
    copies = with_copies(list(files.values()), snapshot.store(run.path, code))
    return replace(request, files=dict(zip(files, copies, strict=True)))


def _begun(work: RequestedWork) -> RequestedWork | None:
    """Work, divided into shards as it was begun.

    None if it was not begun, or if its request is damaged and no job computes it.
    """
    with contextlib.suppress(NotFoundError):
        shards = work.request_type.load(work.folder).shards
        return type(work)(work.folder, replace(work.request, shards=shards))
    return work if work.ledger.history().submitted and not work.is_done else None


def _other_images(run: RunFolder, recipe: Recipe) -> Iterator[str]:
    """A warning if stored data have changed since the run trained on them."""
    data = recipe.data
    with contextlib.suppress(DataError):  # A metric that reads them reports it.
        if isinstance(data, StoredDataSpec):
            now = {IMAGES: store.of(data).split("train").digest}
            if are_other_data(now, run.ledger.history().data):
                yield f"the examples in {data.path} are not those that {run.name} has trained on"


def _division(planned: Planned, shards: int | None) -> Iterator[str]:
    """Messages about evaluations whose number of shards is not that of ``--shards``."""
    if shards is None:
        return
    if (most := max(work.request.shards for work in planned.works)) < shards:
        yield f"--shards {shards}: {most} shards instead, one for each file of rows"
    for work in planned.works:
        begun = _begun(work)
        if begun is not None and begun.request.shards != work.request.shards:
            yield f"{work.name} was begun in {begun.request.shards} shards and keeps them"
