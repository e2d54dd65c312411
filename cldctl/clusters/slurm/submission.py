"""Submitting to Slurm by submitit."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cld_core.files import retried
from cldctl.clusters import job_logs, submitit_jobs
from cldctl.clusters.records import SchedulerAway, SchedulerRefused

from . import client

# Seconds that sbatch may take.
SBATCH_WITHIN_S = 120
# Seconds for which a file is tried to be renamed; its job waits for `entry.PATIENCE_S`.
_NAMED_WITHIN_S = 30.0


class NotSubmitted(Exception):
    """sbatch ended with an error, which is the message."""


def submit(logs: Path, python: str, parameters: Mapping[str, Any], calls: Sequence[Callable[[], Any]]) -> list[str]:
    """Submit one job, or an array if there are several ``calls``; returns the job ids.

    Raises:
        CldError: others may write into the folder.
        OSError: a file could not be written; no job is left.
        NotSubmitted: sbatch failed.
        SchedulerRefused: there is no Slurm here, or submitit does not accept the parameters.
    """
    from submitit.core.utils import JobPaths

    text = script(logs, python, parameters, len(calls))
    job_logs.prepare(logs)
    job_id, files = None, []
    try:
        for call in calls:
            files.append(job_logs.store(logs, call, parameters.get("time")))
        job_id = _sbatch(text)
        job_ids = [job_id] if len(calls) == 1 else [f"{job_id}_{number}" for number in range(len(calls))]
        for number, name in enumerate(job_ids):
            files[number] = _named(files[number], JobPaths(logs, name).submitted_pickle)
    except BaseException:
        if job_id is not None:
            _withdraw(job_id)
        for file in files:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        raise
    # For people: sbatch has its own copy. "x" follows no link.
    with contextlib.suppress(OSError), JobPaths(logs, job_id).submission_file.open("x") as script_file:
        script_file.write(text)
    return job_ids


def _named(file: Path, target: Path) -> Path:
    """Give a pickle the name under which its job, which may be waiting for it already, looks for it.

    Raises:
        OSError: the file system fails for too long.
    """

    def rename() -> None:
        try:
            file.rename(target)
        except FileNotFoundError:
            # A network file system may repeat a request that was already done.
            if not target.exists():
                raise

    retried(rename, _NAMED_WITHIN_S)
    return target


def _withdraw(job_id: str) -> None:
    """Cancel a job that has nothing to run."""
    try:
        client.cancel([job_id])
    except (SchedulerRefused, SchedulerAway) as error:
        print(f"warning: job {job_id} has nothing to run, and could not be cancelled: {error}", file=sys.stderr)


def _sbatch(text: str) -> str:
    """Submit a script, which no file holds that somebody could exchange; returns the job id."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedSubmissionError

    try:
        done = client.completed(["sbatch"], text, SBATCH_WITHIN_S, detached=True)
    except subprocess.TimeoutExpired as error:
        raise NotSubmitted(f"sbatch: error: timed out: no answer within {SBATCH_WITHIN_S} s") from error
    if done.returncode != 0:
        raise NotSubmitted(done.stderr.strip() or f"sbatch ended with {done.returncode}")
    try:
        return str(SlurmExecutor._get_job_id_from_submission_command(done.stdout))
    except FailedSubmissionError as error:
        raise NotSubmitted(str(error).strip()) from error


def script(logs: Path, python: str, parameters: Mapping[str, Any], tasks: int) -> str:
    """The batch script of a job, or of an array of ``tasks``, byte for byte as it is submitted."""
    executor = _executor(logs, python, parameters)
    if tasks > 1:
        executor.parameters["map_count"] = tasks
    return str(executor._make_submission_file_text(submitit_jobs.command(python, executor.folder), uid=""))


def _executor(logs: Path, python: str, parameters: Mapping[str, Any]) -> Any:
    import submitit

    try:
        executor = submitit.SlurmExecutor(folder=logs, python=python)
    except RuntimeError as error:
        raise SchedulerRefused(f"there is no Slurm on this machine ({error}). Use --cluster local.") from error
    try:
        executor.update_parameters(**parameters)
    except ValueError as error:
        raise SchedulerRefused(f"this job cannot be described to sbatch: {error}") from error
    return executor


def first_host() -> str:
    """The node of rank 0 of this process's job."""
    import submitit

    return str(submitit.JobEnvironment().hostnames[0])
