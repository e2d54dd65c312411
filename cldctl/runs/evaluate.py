"""Starting what is missing of a plan, by one submission."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cld_core.evaluation.evaluation import Evaluation, evaluations_of
from cld_core.evaluation.request import EvalRequest
from cld_core.recipe.cluster import ClusterSpec
from cld_core.run import RunFolder
from cld_core.run.events import JobRef
from cld_core.run.groups import Group
from cld_core.small_files import read_object, whole
from cldctl.clusters.base import Cluster
from cldctl.clusters.records import SchedulerAway, SchedulerRefused
from cldctl.evals.plan import EvaluationPlan
from cldctl.jobs import specs

from . import sharded
from .sharded_state import work_state


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
    home = plan.sweep.save(run) if plan.sweep is not None else None
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
        made=frozenset({*missing, *([home.name] if home is not None else [])} - existing),
        logs=home / "logs" if home is not None else None,
    )


def fewer_shards(requests: Sequence[EvalRequest], asked: int) -> int | None:
    """The number of shards, if there are fewer samples or test points than shards that somebody asked for."""
    most = max(request.shards for request in requests)
    return most if most < asked else None


def divided_otherwise(run: RunFolder, requests: Sequence[EvalRequest]) -> list[tuple[str, int]]:
    """Evaluations that were begun in another number of shards, which they keep, and that number."""
    begun = [
        (request, whole(read_object(run.evals / request.id / "request.json").get("shards"))) for request in requests
    ]
    return [(request.id, shards) for request, shards in begun if shards not in (None, request.shards)]
