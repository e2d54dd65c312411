"""Starting what is missing of a plan, by one job."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.evaluation.request import EvalRequest
from cld_core.recipe.cluster import ClusterSpec
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json
from cldctl.cluster import launch
from cldctl.cluster.executor import SchedulerError
from cldctl.cluster.state import eval_status

from .plan import Plan


@dataclass(frozen=True)
class Begun:
    """The evaluations of a plan by how they were found; ``job_id`` computes those of ``started``."""

    complete: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    started: tuple[str, ...] = ()
    job_id: str | None = None


def start(run: RunFolder, plan: Plan, cluster: str, resources: ClusterSpec, parallel: int | None = None) -> Begun:
    """Start those evaluations of a plan that are neither complete nor being computed, as one array or local job.

    Raises:
        SchedulerError: the scheduler refused the job. What was made for it is gone again.
    """
    look, _ = launch.look_at([run])
    found: dict[str, list[str]] = {"FINISHED": [], "RUNNING": [], "missing": []}
    for request in plan.requests:
        path = run.evals / request.id
        there = (path / "request.json").is_file()
        state = eval_status(path, look)["state"] if there else "missing"
        found[{"PENDING": "RUNNING", "STOPPED": "missing"}.get(state, state)].append(request.id)
    there_before = {path.name for path in run.evals.iterdir()} if run.evals.is_dir() else set()
    home: Path | None = plan.sweep.save(run) if plan.sweep is not None else None
    missing = [request for request in plan.requests if request.id in found["missing"]]
    for request in missing:
        request.save(run)
    job_id = None
    if missing:
        names = [request.id for request in missing]
        logs = home / "logs" if home is not None else None
        try:
            job_id = launch.evaluate(run, names, cluster, resources, logs=logs, parallel=parallel).job_id
        except SchedulerError:
            for name in {*names, *([home.name] if home is not None else [])} - there_before:
                shutil.rmtree(run.evals / name)
            raise
    return Begun(tuple(found["FINISHED"]), tuple(found["RUNNING"]), tuple(found["missing"]), job_id)


def cut_otherwise(run: RunFolder, requests: Sequence[EvalRequest]) -> list[tuple[str, int]]:
    """Evaluations that were begun in another number of shards, and that number, in which they go on."""
    found = []
    for request in requests:
        there = read_json(run.evals / request.id / "request.json")
        if there is not None and there["shards"] != request.shards:
            found.append((request.id, int(there["shards"])))
    return found
