"""Submitting, for every command that does: what is written when, and how jobs are found again."""

import contextlib
import fcntl
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cld_core.errors import UsageError
from cld_core.recipe import Recipe
from cld_core.recipe.schema import ClusterSpec
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json, write_json

from . import executor, local, slurm, worker
from .executor import Submitted
from .jobspec import JobSpec
from .state import Look, current_report, eval_folders, missing_shards

# Seconds that a save may take beyond three times the slowest one seen, and the least notice before a time limit.
SAVE_MARGIN_S = 60
# Slurm's own default limit of an array is MaxArraySize=1001.
MAX_TASKS = 1000


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
    spec = train_job(run, recipe, cluster)
    request: dict[str, Any] = {"steps": recipe.train.steps, "overrides": overrides or []}
    if from_step is not None:
        request["from_step"] = from_step
    run.ledger.append("requested", **request)
    # A Slurm evaluation is a job of its own, which waits for this one.
    chained = evaluations if cluster != "slurm" else ()
    job = worker.TrainJob(str(run.path), cluster, chained)
    try:
        submitted = _start(spec, job, cluster, lambda made: run.ledger.append("submitted", **made.to_dict()))
    except executor.SchedulerError as error:
        run.ledger.append("not_submitted", reason=str(error))
        raise
    if cluster == "local":
        for name in evaluations:
            remember(run.evals / name, [submitted], run.logs, ranks=recipe.cluster.world_size)
    if cluster == "slurm":
        for name in evaluations:
            evaluate(run, (name,), cluster, recipe.cluster, after=submitted.job_id)
    return submitted


def chained_evaluations(run: RunFolder, recipe: Recipe) -> tuple[str, ...]:
    """Evaluations of the run's last step that were asked for with its submission and have no result yet."""
    waiting = []
    for path in eval_folders(run):
        request = read_json(path / "request.json") or {}
        if request.get("checkpoint_step") == recipe.train.steps and current_report(path) is None:
            waiting.append(path.name)
    return tuple(waiting)


def train_job(run: RunFolder, recipe: Recipe, cluster: str) -> JobSpec:
    """The job that trains ``run``; checked, so that nothing is written for one that cannot be submitted."""
    spec = JobSpec.of(run.name, run.logs, recipe.cluster)
    if cluster == "slurm":
        notice = signal_seconds(run, recipe.cluster)
        spec = replace(spec, teardown=_aftermath(spec, run), signal_s=notice, resources=_noted(recipe.cluster, notice))
        spec.slurm_parameters()
    else:
        spec.local_parameters()
    return spec


def _aftermath(spec: JobSpec, run: RunFolder, *eval_logs: str) -> tuple[str, ...]:
    """Last lines of a batch script: what is to follow on its end."""
    words = " ".join(map(shlex.quote, eval_logs))
    command = f"{executor.python_command(spec)} -m cldctl.cluster.aftermath {shlex.quote(str(run.path))} $code {words}"
    return ("code=$?", command.rstrip(), "exit $code")


def signal_seconds(run: RunFolder, cluster: ClusterSpec) -> int:
    """How long before the time limit to stop: three times the slowest save that was measured, and a margin."""
    if cluster.signal_s is not None:
        return cluster.signal_s
    slowest = max((save_seconds(run, step) for step in run.checkpoint_steps()), default=10.0)
    return round(3 * slowest) + SAVE_MARGIN_S


def save_seconds(run: RunFolder, step: int) -> float:
    """How long writing the checkpoint of a step took."""
    sidecar = read_json(run.checkpoint_file(step).with_suffix(".json")) or {}
    return float(sidecar.get("seconds", 0.0))


def evaluate(
    run: RunFolder,
    names: Sequence[str],
    cluster: str,
    resources: ClusterSpec,
    *,
    logs: Path | None = None,
    after: str | None = None,
    parallel: int | None = None,
) -> Submitted:
    """Start the missing shards of evaluations: on Slurm one array, a task a shard; elsewhere processes that share.

    ``logs``: where the output goes; default: into the folder of the first evaluation.
    """
    spec = eval_job(run, cluster, resources, logs or run.evals / names[0] / "logs", after=after, parallel=parallel)
    if cluster != "slurm":

        def note(submitted: Submitted) -> None:
            for name in names:
                remember(run.evals / name, [submitted], spec.logs, ranks=spec.tasks_per_node)

        return _start(spec, worker.EvalJob(str(run.path), tuple(names), cluster, resources.uses_gpu), cluster, note)
    tasks = array_tasks(run, names)
    jobs = executor.submit_slurm(
        spec, [worker.EvalJob(str(run.path), (), cluster, resources.uses_gpu, task) for task in tasks]
    )
    for name in names:
        shards = [[shard for other, shard in task if other == name] for task in tasks]
        own = [(job, part) for job, part in zip(jobs, shards, strict=True) if part]
        remember(run.evals / name, [job for job, _ in own], spec.logs, shards=[part for _, part in own])
    return jobs[0]


def eval_job(
    run: RunFolder,
    cluster: str,
    resources: ClusterSpec,
    logs: Path,
    *,
    after: str | None = None,
    parallel: int | None = None,
) -> JobSpec:
    """The job that evaluates, on Slurm one task of its array; checked."""
    spec = JobSpec.of(f"{run.name}-eval", logs, resources)
    if cluster != "slurm":
        spec.local_parameters()
        return spec
    return replace(
        spec,
        nodes=1,
        tasks_per_node=1,
        gpus_per_node=min(1, spec.gpus_per_node),
        signal_s=signal_seconds(run, resources),
        after=f"afterany:{after}" if after else None,
        parallel=parallel,
        teardown=_aftermath(spec, run, str(logs)),
    )


def array_tasks(run: RunFolder, names: Sequence[str]) -> list[tuple[tuple[str, int], ...]]:
    """The missing shards (evaluation, number) of evaluations, one a task, or more where an array cannot be so long."""
    # Where all shards of an evaluation are there, one task is left to merge them.
    pieces = [(name, shard) for name in names for shard in missing_shards(run.evals / name) or [0]]
    count = min(len(pieces), MAX_TASKS)
    return [tuple(pieces[task::count]) for task in range(count)]


def remember(
    evaluation: Path,
    submitted: Sequence[Submitted],
    logs: Path,
    *,
    ranks: int | None = None,
    shards: Sequence[Sequence[int]] | None = None,
) -> None:
    """Note which jobs work on an evaluation, and where they write, for `status`, `logs` and `cancel`.

    ``ranks``: how many processes of a job share all shards; ``shards``: those that each job does by itself.
    """
    jobs = read_json(evaluation / "jobs.json") or []
    about = {"time": time.time(), "logs": os.path.relpath(logs, evaluation), "ranks": ranks}
    for index, job in enumerate(submitted):
        jobs.append({**about, "shards": list(shards[index]) if shards is not None else None, **job.to_dict()})
    write_json(evaluation / "jobs.json", jobs)


def waiting_arrays(evaluation: Path) -> list[str]:
    """Slurm's ids of an evaluation's jobs and arrays that have not begun."""
    jobs = [job for job in read_json(evaluation / "jobs.json") or [] if job["cluster"] == "slurm"]
    answers = slurm.survey(job["job_id"] for job in jobs)
    return sorted({job["job_id"].split("_")[0] for job in jobs if answers.of(job["job_id"]).phase == "pending"})


def jobs_of(run: RunFolder) -> list[dict[str, Any]]:
    """Everything that was ever submitted for a run: training first, then evaluations.

    ``settled``: how it ended is known, by the run's own words: it is finished, the evaluation has its report.
    """
    events = run.ledger.events()
    ends = [event for event in events if event["event"] in ("requested", "started", "ended")]
    finished = bool(ends) and ends[-1].get("cause") == "finished"
    jobs = [{**event, "settled": finished} for event in events if event["event"] == "submitted"]
    for path in eval_folders(run):
        known = {"settled": (path / "report.json").exists()}
        jobs += [{**job, **known} for job in read_json(path / "jobs.json") or []]
    return jobs


def look_at(runs: Iterable[RunFolder]) -> tuple[Look, str | None]:
    """Ask the clusters once for all jobs of these runs; returns how to read the answers, and what was out of reach."""
    return look_for(job for run in runs for job in jobs_of(run))


def look_for(jobs: Iterable[dict[str, Any]]) -> tuple[Look, str | None]:
    """As `look_at`, for jobs that were noted elsewhere."""
    on_slurm = [job for job in jobs if job["cluster"] == "slurm"]
    settled = {job["job_id"] for job in on_slurm if job.get("settled")}
    answers = slurm.survey([job["job_id"] for job in on_slurm], settled)

    def look(job: dict[str, Any]) -> slurm.Seen:
        return answers.of(str(job["job_id"])) if job["cluster"] == "slurm" else local.look(job)

    return look, answers.problem


@contextlib.contextmanager
def only_one(run: RunFolder) -> Iterator[None]:
    """Of several people who start jobs of a run at the same moment, one at a time gets past here."""
    with (run.path / ".submit.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(spec: JobSpec, job: Callable[[], Any], cluster: str, note: Callable[[Submitted], None]) -> Submitted:
    if cluster == "debug":
        import psutil

        submitted = Submitted(str(os.getpid()), "debug", socket.gethostname(), psutil.Process().create_time())
        note(submitted)
        job()
        return submitted
    submitted = executor.submit_slurm(spec, [job])[0] if cluster == "slurm" else executor.submit_local(spec, job)
    note(submitted)
    return submitted


def _noted(cluster: ClusterSpec, signal_s: int) -> ClusterSpec:
    """The job learns how early it is told of its limit, to tell that signal from a preemption's."""
    return replace(cluster, setup=(*cluster.setup, f"export CLDCTL_SIGNAL_S={signal_s}"))


def refuse_slurm_without_it(cluster: str) -> None:
    """Raises UsageError where Slurm was asked for and is not here."""
    import shutil

    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise UsageError("--cluster slurm: there is no sbatch on this machine. Use --cluster local.")


def statistics(folder: Path, shards: Sequence[int], cluster: str, resources: ClusterSpec) -> Submitted:
    """Start computing shards of the statistics of a training set: an array on Slurm, else processes that share."""
    spec = JobSpec.of("cldctl-stats", folder / "logs", resources)
    if cluster != "slurm":
        spec.local_parameters()
        job = worker.StatsJob(str(folder), cluster, resources.uses_gpu)
        return _start(spec, job, cluster, lambda made: remember(folder, [made], spec.logs))
    spec = replace(spec, nodes=1, tasks_per_node=1, gpus_per_node=min(1, spec.gpus_per_node))
    jobs = executor.submit_slurm(
        spec, [worker.StatsJob(str(folder), cluster, resources.uses_gpu, shard) for shard in shards]
    )
    remember(folder, jobs, spec.logs)
    return jobs[0]
