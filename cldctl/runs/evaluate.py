"""Starting what is missing of a plan, by one submission."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cld_core.evaluation.evaluation import Evaluation, evaluations_of
from cld_core.evaluation.request import EvalRequest
from cld_core.recipe.cluster import ClusterSpec
from cld_core.run import RunFolder
from cld_core.run.events import JobRef
from cld_core.small_files import read_object, whole
from cldctl.clusters.base import Cluster, SchedulerAway, SchedulerRefused
from cldctl.evals.plan import EvaluationPlan
from cldctl.jobs import specs

from . import sharded
from .status import work_state


@dataclass(frozen=True)
class Outcome:
    """The evaluations of a plan by the state that they were in; ``job`` computes those of ``started``.

    Attributes:
        said: what people should know about how the work was divided.
    """

    complete: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    started: tuple[str, ...] = ()
    job: JobRef | None = None
    said: tuple[str, ...] = ()


def start(
    run: RunFolder, plan: EvaluationPlan, cluster: Cluster, size: ClusterSpec, parallel: int | None = None
) -> Outcome:
    """Start those evaluations of a plan that are neither complete nor being computed, and lost tasks of the latter.

    Raises:
        RecipeError: the cluster has no such jobs. Nothing is written.
        SchedulerRefused, SchedulerAway: nothing was started, and what was made for it is removed again.
        UsageError: a job of one of them belongs to a cluster that this cldctl does not know.
    """
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
    home = plan.sweep.save(run) if plan.sweep is not None else None
    for request in plan.requests:
        if request.id in by_state["STOPPED"]:
            request.save(run)
    job = None
    said: list[str] = []
    # A request that was damaged is written again above; its report may be there already.
    started = [work for name in missing if not (work := Evaluation(run.evals / name)).is_done]
    if started:
        logs = home / "logs" if home is not None else None
        try:
            only = {work.name: left.get(work.name) or work.to_start() for work in started}
            job = sharded.start(
                started, cluster, size, run=run, logs=logs, parallel=parallel, only=only, say=said.append
            )
        except (SchedulerRefused, SchedulerAway):
            for name in {*missing, *([home.name] if home is not None else [])} - existing:
                shutil.rmtree(run.evals / name)
            raise
    running = tuple(name for name in (*by_state["RUNNING"], *by_state["PENDING"]) if name not in left)
    names = tuple(work.name for work in started)
    complete = (*by_state["FINISHED"], *(name for name in missing if name not in names))
    return Outcome(complete, running, names, job, tuple(said))


def fewer_shards(requests: Sequence[EvalRequest], asked: int) -> int | None:
    """The number of shards, if there are fewer samples or test examples than shards that somebody asked for."""
    most = max(request.shards for request in requests)
    return most if most < asked else None


def divided_otherwise(run: RunFolder, requests: Sequence[EvalRequest]) -> list[tuple[str, int]]:
    """Evaluations that were begun in another number of shards, which they keep, and that number."""
    begun = [
        (request, whole(read_object(run.evals / request.id / "request.json").get("shards"))) for request in requests
    ]
    return [(request.id, shards) for request, shards in begun if shards not in (None, request.shards)]
