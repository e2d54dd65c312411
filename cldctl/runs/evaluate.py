"""Starting what is missing of a plan, by one submission."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cld_core.evaluation.evaluation import Evaluation, evaluations_of
from cld_core.evaluation.request import EvalRequest
from cld_core.ownership import require_may_change
from cld_core.recipe.cluster import ClusterSpec
from cld_core.run import RunFolder
from cld_core.run.events import JobRef
from cld_core.run.groups import Group
from cld_core.run.trust import require_own_plugin
from cld_core.small_files import read_object, whole
from cldctl.clusters.base import Cluster
from cldctl.clusters.records import SchedulerAway, SchedulerRefused
from cldctl.evals.plan import EvaluationPlan, checkpoints, make, recipe_for_evaluation
from cldctl.evals.sweep import parse
from cldctl.jobs import specs

from . import home, sharded, training
from .options import refuse_twice
from .plugins import Say
from .work_status import work_state


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Evaluations of a run, as somebody asked for them.

    Attributes:
        sweep: settings of which each is evaluated, as "KEY=a,b,c".
        checkpoint: "last", "all" or a step.
        cluster: None for the run's own.
        allow_plugin: whether code that others can write may run.
    """

    metrics: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    sweep: tuple[str, ...] = ()
    checkpoint: str = "last"
    shards: int | None = None
    parallel: int | None = None
    cluster: str | None = None
    allow_plugin: bool = False


def planned(run: RunFolder, options: EvalOptions, say: Say) -> tuple[EvaluationPlan, Cluster, ClusterSpec]:
    """The requested evaluations of a run, where they are computed, and the jobs that its training would get.

    Raises:
        CldError: the run belongs to somebody else, or has no such checkpoint.
        UsageError: an option is wrong, or the plug-in of the run may not be run.
    """
    require_may_change(run.path, "Nothing was evaluated")
    axes = parse(options.sweep)
    refuse_twice("--sweep", [axis.key for axis in axes], options.overrides)
    where, size = place(run, options.cluster, options.overrides, options.allow_plugin)
    steps = steps_of(run, options.checkpoint, say)
    made = make(run, options.metrics, steps, options.overrides, axes, options.shards)
    for text in division(run, made.requests, options.shards):
        say(text)
    return made, where, size


def place(
    run: RunFolder, cluster: str | None, overrides: Sequence[str], allow_plugin: bool
) -> tuple[Cluster, ClusterSpec]:
    """Where evaluations of a run are computed, and the jobs that a training with these settings would get.

    Raises:
        UsageError: the plug-in of the run may not be run, or an override is wrong.
    """
    where, recipe = home.chosen(cluster, run), run.recipe()
    if not allow_plugin:
        require_own_plugin(run, recipe, of_metrics=True)
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


def start(
    run: RunFolder, plan: EvaluationPlan, cluster: Cluster, size: ClusterSpec, parallel: int | None = None
) -> Outcome:
    """Start those evaluations of a plan that are neither complete nor being computed, and lost tasks of the latter.

    Raises:
        RecipeError: the cluster has no such jobs. Nothing is written.
        SchedulerRefused, SchedulerAway: nothing was started, and what was made for it is removed again.
        UsageError: a job of one of them belongs to a cluster that this cldctl does not know.
    """
    one = _prepared(run, plan, cluster, size)
    said: list[str] = []
    return one.outcome(_submitted([one], cluster, size, one.logs, parallel, said.append), said)


def start_group(
    group: Group,
    plans: Sequence[tuple[RunFolder, EvaluationPlan]],
    cluster: Cluster,
    size: ClusterSpec,
    parallel: int | None = None,
) -> list[Outcome]:
    """As `start`, for several runs of a group by one submission, with its output in the group's folder."""
    all_of_them = [_prepared(run, plan, cluster, size) for run, plan in plans]
    # What people should know about the submission is said once.
    said: list[str] = []
    job = _submitted(all_of_them, cluster, size, group.logs, parallel, said.append)
    first = next((one for one in all_of_them if one.works), None)
    return [one.outcome(job if one.works else None, said if one is first else ()) for one in all_of_them]


def start_alike(
    group: Group,
    plans: Sequence[tuple[RunFolder, EvaluationPlan, Cluster, ClusterSpec]],
    parallel: int | None = None,
) -> Iterator[tuple[RunFolder, EvaluationPlan, Cluster, Outcome]]:
    """As `start_group`, by one submission for all of the same cluster and size, as runs of a group usually are."""
    alike: dict[tuple[str, ClusterSpec], list[tuple[RunFolder, EvaluationPlan, Cluster]]] = {}
    for run, plan, cluster, size in plans:
        alike.setdefault((cluster.name, size), []).append((run, plan, cluster))
    for (_, size), mine in alike.items():
        cluster = mine[0][2]
        with training.locked([run for run, *_ in mine], cluster):
            outcomes = start_group(group, [(run, plan) for run, plan, _ in mine], cluster, size, parallel)
        yield from ((*entry, outcome) for entry, outcome in zip(mine, outcomes, strict=True))


def _submitted(
    all_of_them: Sequence[_Prepared],
    cluster: Cluster,
    size: ClusterSpec,
    logs: Path | None,
    parallel: int | None,
    say: Callable[[str], None],
) -> JobRef | None:
    works = [work for one in all_of_them for work in one.works]
    if not works:
        return None
    run = next(one.run for one in all_of_them if one.works)
    only = {folder: shards for one in all_of_them for folder, shards in one.shards.items()}
    try:
        return sharded.start(works, cluster, size, run=run, logs=logs, parallel=parallel, only=only, say=say)
    except (SchedulerRefused, SchedulerAway):
        for one in all_of_them:
            one.undo()
        raise


def _prepared(run: RunFolder, plan: EvaluationPlan, cluster: Cluster, size: ClusterSpec) -> _Prepared:
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


def division(run: RunFolder, requests: Sequence[EvalRequest], asked: int | None) -> Iterator[str]:
    """Which evaluations have another number of shards than somebody asked for, a line each."""
    if asked is None:
        return
    if (most := max(request.shards for request in requests)) < asked:
        yield f"--shards {asked}: {most} shards instead, one for each sample or test point"
    for request in requests:
        begun = whole(read_object(run.evals / request.id / "request.json").get("shards"))
        if begun not in (None, request.shards):
            yield f"{request.id} was begun in {begun} shards and keeps them"
