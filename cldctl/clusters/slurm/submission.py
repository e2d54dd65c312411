"""Submitting to Slurm by submitit."""

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cldctl.clusters.base import SchedulerRefused

# Seconds that sbatch may take, and the exit code of `timeout` when it took longer.
SBATCH_WITHIN_S = 120
_TIMED_OUT = 124


class NotSubmitted(Exception):
    """sbatch ended with an error, which is the message."""


def submit(logs: Path, python: str, parameters: Mapping[str, Any], calls: Sequence[Callable[[], Any]]) -> list[str]:
    """Submit one job, or an array if there are several ``calls``; returns the job ids.

    Raises:
        OSError: a file could not be written.
        NotSubmitted: sbatch failed.
        SchedulerRefused: there is no Slurm here, or submitit does not accept the parameters.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = _executor(logs, python, parameters)
    try:
        # submitit prints what sbatch says before it raises it.
        with contextlib.redirect_stderr(io.StringIO()), _limited():
            jobs = executor.map_array(_call, calls) if len(calls) > 1 else [executor.submit(calls[0])]
    except (FailedJobError, FailedSubmissionError) as error:
        if getattr(error.__cause__, "returncode", None) == _TIMED_OUT:
            raise NotSubmitted(f"sbatch: error: timed out: no answer within {SBATCH_WITHIN_S} s") from error
        raise NotSubmitted(str(error).strip() or type(error).__name__) from error
    return [str(job.job_id) for job in jobs]


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Let sbatch take no longer than `SBATCH_WITHIN_S` seconds. submitit waits for it without a limit."""
    import submitit

    executor: Any = submitit.SlurmExecutor
    original = executor._make_submission_command

    def command(self: Any, file: Path) -> list[str]:
        return ["timeout", "--kill-after=5", str(SBATCH_WITHIN_S), *original(self, file)]

    if shutil.which("timeout"):
        executor._make_submission_command = command
    try:
        yield
    finally:
        executor._make_submission_command = original


def script(logs: Path, python: str, parameters: Mapping[str, Any], tasks: int) -> str:
    """The batch script of a job, or of an array of ``tasks``, byte for byte as it is submitted."""
    executor = _executor(logs, python, parameters)
    if tasks > 1:
        executor.parameters["map_count"] = tasks
    return str(executor._make_submission_file_text(executor._submitit_command_str, uid=""))


def _call(call: Callable[[], Any]) -> Any:
    return call()


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
