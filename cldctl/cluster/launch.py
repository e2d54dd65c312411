"""Submitting, for every command that does: what is written when, and how jobs are found again."""

import time
from pathlib import Path
from typing import Any

from cld_core.errors import UsageError
from cld_core.recipe import Recipe
from cld_core.recipe.schema import ClusterSpec
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json, write_json

from . import executor, local, worker
from .executor import Submitted
from .jobspec import JobSpec


def alive(job: dict[str, Any]) -> bool | None:
    """Whether the job of a `submitted` event lives; None where that cannot be told from here."""
    if job["cluster"] == "debug":
        return local.alive(job)
    if job["cluster"] == "local":
        return local.alive(job)
    return None


def train(
    run: RunFolder,
    recipe: Recipe,
    cluster: str,
    *,
    overrides: list[str] | None = None,
    from_step: int | None = None,
    evaluations: tuple[str, ...] = (),
) -> Submitted:
    """Start training of ``run``, or its continuation.

    The request stands in the ledger before the job exists, so a job that starts at once finds it.
    """
    spec = JobSpec.of(run.name, run.logs, recipe.cluster)
    check(cluster, spec)
    request: dict[str, Any] = {"steps": recipe.train.steps, "overrides": overrides or []}
    if from_step is not None:
        request["from_step"] = from_step
    run.ledger.append("requested", **request)
    job = worker.TrainJob(str(run.path), evaluations, debug=cluster == "debug")
    if cluster == "debug":
        submitted = _here()
        run.ledger.append("submitted", **submitted.to_dict())
        job()
        return submitted
    submitted = executor.submit_local(spec, job)
    run.ledger.append("submitted", **submitted.to_dict())
    for name in evaluations:
        remember(run.evals / name, submitted)
    return submitted


def evaluate(run: RunFolder, name: str, cluster: str, resources: ClusterSpec) -> Submitted:
    """Start the missing shards of one evaluation."""
    spec = JobSpec.of(f"{run.name}-eval", run.evals / name / "logs", resources)
    check(cluster, spec)
    job = worker.EvalJob(str(run.path), (name,), debug=cluster == "debug")
    if cluster == "debug":
        submitted = _here()
        remember(run.evals / name, submitted)
        job()
        return submitted
    submitted = executor.submit_local(spec, job)
    remember(run.evals / name, submitted)
    return submitted


def check(cluster: str, spec: JobSpec) -> None:
    """Refuse what the cluster cannot do, before anything is written."""
    if cluster == "slurm":
        text = "submission to Slurm is not part of this version. Use --cluster local"
        raise UsageError(f"{text} inside an allocation, or torchrun (docs/architecture.md).")
    spec.local_parameters()


def remember(evaluation: Path, submitted: Submitted) -> None:
    """Note which jobs work on an evaluation, for `status`, `logs` and `cancel`."""
    jobs = read_json(evaluation / "jobs.json") or []
    write_json(evaluation / "jobs.json", [*jobs, {"time": time.time(), **submitted.to_dict()}])


def _here() -> Submitted:
    import os
    import socket

    import psutil

    process = psutil.Process()
    return Submitted(str(os.getpid()), "debug", socket.gethostname(), process.create_time())
