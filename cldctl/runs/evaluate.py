"""Starting what is missing of a plan, by one submission."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cld_core.codec import whole
from cld_core.config.cluster import ClusterSpec
from cld_core.errors import CldError, UsageError
from cld_core.evaluate import registry
from cld_core.evaluate.evaluation import Evaluation, evaluations_of
from cld_core.evaluate.request import EvalRequest
from cld_core.files import read_object
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.events import JobRef
from cld_core.run.groups import Group
from cld_core.run.recipe import trusted_recipe
from cldctl.clusters.base import Cluster
from cldctl.clusters.records import SchedulerAway, SchedulerRefused
from cldctl.evals import samplers
from cldctl.evals.plan import EvaluationPlan, checkpoints, make, parse, recipe_for_evaluation
from cldctl.jobs import specs

from . import cluster_choice, sharded, training
from .options import Say, as_typed, named_as_typed, refuse_twice
from .resume import Skipped
from .status import work_state
from .training import is_finished


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Evaluations of a run, as somebody asked for them.

    Attributes:
        named: further metrics by name, separated by commas; plug-ins of the run may register them.
        samples: number of samples, or of test points if none are drawn; None for that of the recipe.
        sweep: settings of which each is evaluated, as "KEY=a,b,c".
        checkpoint: "last", "all" or a step.
        cluster: None for the run's own.
        allow_plugin: whether code that others can write may run.
    """

    metrics: tuple[str, ...]
    named: str | None = None
    overrides: tuple[str, ...] = ()
    samples: int | None = None
    sweep: tuple[str, ...] = ()
    checkpoint: str = "last"
    shards: int | None = None
    cluster: str | None = None
    allow_plugin: bool = False


@dataclass(frozen=True)
class Planned:
    """Evaluations that a run should have; what is missing is computed by jobs of the size that its training has."""

    run: RunFolder
    plan: EvaluationPlan
    cluster: Cluster
    size: ClusterSpec


def plan(run: RunFolder, options: EvalOptions, say: Say) -> Planned:
    """The requested evaluations of a run. Writes nothing.

    Raises:
        CldError: the run belongs to somebody else, or has no such checkpoint.
        UsageError: an option is wrong, or the plug-in of the run may not be run.
    """
    overrides, axes, metrics = options.overrides, parse(options.sweep), options.metrics
    if options.named is not None:
        trusted_recipe(run, allow_plugin=options.allow_plugin)
        metrics += registry.parse_metrics(options.named, "--metric")
    if options.samples is not None:
        key = f"eval.{'samples' if registry.draws_samples(metrics) else 'points'}"
        refuse_twice("--samples", [key], [*overrides, *options.sweep])
        overrides = (*overrides, f"{key}={options.samples}")
    require_may_change(run.path, "Nothing was evaluated")
    refuse_twice("--sweep", [axis.key for axis in axes], overrides)
    with named_as_typed(run):
        where, size = _place(run, options.cluster, overrides, options.allow_plugin)
        steps = steps_of(run, options.checkpoint, say)
        made = make(run, metrics, steps, overrides, axes, options.shards)
    for text in _division(run, made.requests, options.shards):
        say(text)
    return Planned(run, made, where, size)


def plan_group(group: Group, options: EvalOptions, say: Say) -> tuple[list[Planned], list[Skipped]]:
    """The requested evaluations of the runs of a group, and the runs that cannot have them.

    At their last checkpoints, runs are evaluated once they are finished.
    """
    planned, skipped = [], []
    runs = group.runs()
    ready = [run for run in runs if options.checkpoint != "last" or is_finished(run)]
    if left := [run.name for run in runs if run not in ready]:
        text = f"not finished, and not evaluated: {', '.join(left)}"
        say(f"{text}. Run this again later, or pass --checkpoint STEP")
    for run in ready:
        try:
            planned.append(plan(run, options, say))
        except CldError as error:
            skipped.append(Skipped(run, str(error), error.exit_code))
    return planned, skipped


def plan_samplers(
    run: RunFolder, named: Sequence[str], nfe: Sequence[int], seeds: int | None, options: EvalOptions, say: Say
) -> tuple[samplers.Comparison, Planned]:
    """The evaluations that compare samplers of a checkpoint of a run. Writes nothing.

    Args:
        named: the samplers, as ``--sampler`` names or defines them; all that come with cldctl without any.
        nfe: numbers of network evaluations.
        seeds: repetitions with new noise; None for as many as suit the data.
        options: its metrics are those that suit the data if there are none; ``sweep`` is not read.

    Raises:
        CldError: as `plan`, or nothing can be compared.
    """
    if options.checkpoint == "all":
        raise UsageError("samplers of one checkpoint are compared: --checkpoint last or STEP.")
    overrides, typed = options.overrides, {samplers.NFE: "--nfe"}
    if options.samples is not None:
        refuse_twice("--samples", ["eval.samples"], overrides)
        overrides = (*overrides, f"eval.samples={options.samples}")
    settings = samplers.chosen(named)
    samplers.require_numbers(nfe)
    metrics, usual = samplers.suited(run.recipe(), options.metrics)
    bench = samplers.BenchOptions(metrics=metrics, settings=settings, nfe=tuple(nfe), seeds=seeds or usual)
    with named_as_typed(run, typed):
        # The other keys are those of all samplers, which are looked at one by one.
        of_cluster = [text for text in overrides if text.startswith("cluster.")]
        where, size = _place(run, options.cluster, of_cluster, options.allow_plugin)
        (step,) = steps_of(run, options.checkpoint, say)
        made = samplers.make(run, bench, step, overrides, options.shards)
    left_out = (as_typed(text, run, typed) for text in made.left_out)
    for text in (*left_out, *_division(run, made.requests, options.shards)):
        say(text)
    return made, Planned(run, made, where, size)


def _place(
    run: RunFolder, cluster: str | None, overrides: Sequence[str], allow_plugin: bool
) -> tuple[Cluster, ClusterSpec]:
    """Where evaluations of a run are computed, and the jobs that a training with these settings would get."""
    where, recipe = cluster_choice.chosen(cluster, run), trusted_recipe(run, allow_plugin=allow_plugin)
    return where, recipe_for_evaluation(recipe, overrides, str(run.recipe_file)).cluster


def steps_of(run: RunFolder, checkpoint: str, say: Say, doing: str = "evaluating") -> list[int]:
    """The steps that ``--checkpoint`` means; says which damaged checkpoints are skipped.

    Raises:
        NotFoundError, CheckpointError: as `plan.checkpoints`.
    """
    steps, damaged = checkpoints(run, checkpoint)
    for entry in damaged:
        say(entry.skipped)
    if damaged:
        say(f"{doing} step {', '.join(map(str, steps))} of {run.name}")
    return steps


@dataclass(frozen=True)
class Outcome:
    """Evaluations or tunings by the state that they were in; ``job`` computes those of ``started``.

    Attributes:
        said: what people should know about how the work was divided.
    """

    complete: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    started: tuple[str, ...] = ()
    job: JobRef | None = None
    said: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        return not (self.running or self.started)


@dataclass(frozen=True)
class _Prepared:
    """The evaluations of a plan by their state; those to start, and what was made for them, are on the disk.

    Attributes:
        shards: those to start of each work, by its folder.
        made: names of folders in ``evals/`` that are removed if nothing can be started.
        logs: where the output goes; None for the folder of the first work.
    """

    run: RunFolder
    complete: tuple[str, ...]
    running: tuple[str, ...]
    works: tuple[Evaluation, ...]
    shards: Mapping[Path, Sequence[int]]
    made: frozenset[str]
    logs: Path | None

    def undo(self) -> None:
        for name in self.made:
            shutil.rmtree(self.run.evals / name)

    def outcome(self, job: JobRef | None, said: Sequence[str]) -> Outcome:
        return Outcome(self.complete, self.running, tuple(work.name for work in self.works), job, tuple(said))


def start(planned: Planned, parallel: int | None = None) -> Outcome:
    """Start those evaluations that are neither complete nor being computed, and lost tasks of the latter.

    Raises:
        RecipeError: the cluster has no such jobs. Nothing is written.
        SchedulerRefused, SchedulerAway: nothing was started, and what was made for it is removed again.
        UsageError: a job of one of them belongs to a cluster that this cldctl does not know.
    """
    ((_, outcome),) = start_several([planned], None, parallel)
    return outcome


def start_several(
    planned: Iterable[Planned], group: Group | None, parallel: int | None = None
) -> Iterator[tuple[Planned, Outcome]]:
    """As `start`, by one submission for all of the same cluster and size, as runs of a group usually are.

    Args:
        group: has the output in its folder; None for the run of each submission.
    """
    alike: dict[tuple[str, ClusterSpec], list[Planned]] = {}
    for one in planned:
        alike.setdefault((one.cluster.name, one.size), []).append(one)
    for these in alike.values():
        with training.locked([one.run for one in these], these[0].cluster):
            prepared: list[_Prepared] = []
            # What people should know about the submission is said once.
            said: list[str] = []
            try:
                for one in these:
                    prepared.append(_prepared(one))
                logs = prepared[0].logs if group is None else group.logs
                job = _submitted(prepared, these[0], logs, parallel, said.append)
            # Of other errors a job may be left, which needs them.
            except (UsageError, SchedulerRefused, SchedulerAway):
                for made in prepared:
                    made.undo()
                raise
        first = next((its for its in prepared if its.works), None)
        for which, its in zip(these, prepared, strict=True):
            yield which, its.outcome(job if its.works else None, said if its is first else ())


def _submitted(
    prepared: Sequence[_Prepared], alike: Planned, logs: Path | None, parallel: int | None, say: Say
) -> JobRef | None:
    works = [work for one in prepared for work in one.works]
    if not works:
        return None
    run = next(one.run for one in prepared if one.works)
    only = {folder: shards for one in prepared for folder, shards in one.shards.items()}
    return sharded.start(works, alike.cluster, alike.size, run=run, logs=logs, parallel=parallel, only=only, say=say)


def _prepared(planned: Planned) -> _Prepared:
    run, cluster, size, plan = planned.run, planned.cluster, planned.size, planned.plan
    works = {work.name: work for work in evaluations_of(run)}
    begun = [works[request.id] for request in plan.requests if request.id in works]
    answers = sharded.ask_about(work for work in begun if not work.is_done)
    by_state: dict[str, list[str]] = {"FINISHED": [], "RUNNING": [], "PENDING": [], "STOPPED": []}
    for request in plan.requests:
        state = work_state(works[request.id], answers) if request.id in works else "STOPPED"
        by_state[state].append(request.id)
    left = {
        name: shards
        for name in (*by_state["RUNNING"], *by_state["PENDING"])
        if (shards := sharded.unclaimed(works[name], answers))
    }
    missing = by_state["STOPPED"] + list(left)
    if missing:
        spec = specs.sharded([run.evals / missing[0]], size, cluster, run=run)
        cluster.check(spec)
        cluster.max_tasks(replace(spec, size=size))
    existing = {path.name for path in run.evals.iterdir()} if run.evals.is_dir() else set()
    folder = plan.sweep.save(run) if plan.sweep is not None else None
    for request in plan.requests:
        if request.id in by_state["STOPPED"]:
            request.save(run)
    # A request that was damaged is written again above; its report may be there already.
    started = tuple(work for name in missing if not (work := Evaluation(run.evals / name)).is_done)
    names = [work.name for work in started]
    return _Prepared(
        run,
        complete=(*by_state["FINISHED"], *(name for name in missing if name not in names)),
        running=tuple(name for name in (*by_state["RUNNING"], *by_state["PENDING"]) if name not in left),
        works=started,
        shards={work.folder: left.get(work.name) or work.to_start() for work in started},
        made=frozenset({*missing, *([folder.name] if folder is not None else [])} - existing),
        logs=folder / "logs" if folder is not None else None,
    )


def _division(run: RunFolder, requests: Sequence[EvalRequest], asked: int | None) -> Iterator[str]:
    """Which evaluations have another number of shards than somebody asked for, a line each."""
    if asked is None:
        return
    if (most := max(request.shards for request in requests)) < asked:
        yield f"--shards {asked}: {most} shards instead, one for each file of rows"
    for request in requests:
        begun = whole(read_object(run.evals / request.id / "request.json").get("shards"))
        if begun not in (None, request.shards):
            yield f"{request.id} was begun in {begun} shards and keeps them"
