"""The only file that imports submitit: starting its jobs, and what it says inside one."""

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cld_core.place import Place

from .base import SchedulerRefused

# What each process of a local job runs, with the log folder as its last argument.
LOCAL_MODULE = "submitit.core._submit"
# submitit wants a number of minutes.
FOREVER_MIN = 10 * 365 * 24 * 60


class NotSubmitted(Exception):
    """sbatch ended with an error, which is the message."""


def start_local(logs: Path, call: Callable[[], Any], *, processes: int, gpus: int) -> int:
    """Start ``call`` in several processes; returns the process id of their controller. They have no time limit.

    Raises:
        OSError: a file could not be written, or the controller could not be started.
    """
    import submitit

    executor = submitit.LocalExecutor(folder=logs)
    executor.update_parameters(tasks_per_node=processes, gpus_per_node=gpus, timeout_min=FOREVER_MIN)
    return int(executor.submit(call).job_id)


def local_command(logs: Path) -> str:
    """The command that each process of a local job runs."""
    return f"{shlex.quote(sys.executable)} -u -m {LOCAL_MODULE} {shlex.quote(str(logs))}"


def submit_slurm(
    logs: Path, python: str, parameters: Mapping[str, Any], calls: Sequence[Callable[[], Any]]
) -> list[str]:
    """Submit one job, or an array if there are several ``calls``; returns the job ids.

    Raises:
        OSError: a file could not be written.
        NotSubmitted: sbatch failed.
        SchedulerRefused: there is no Slurm here, or submitit does not accept the parameters.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = _slurm_executor(logs, python, parameters)
    try:
        # submitit prints what sbatch says before it raises it.
        with contextlib.redirect_stderr(io.StringIO()):
            jobs = executor.map_array(_call, calls) if len(calls) > 1 else [executor.submit(calls[0])]
    except (FailedJobError, FailedSubmissionError) as error:
        raise NotSubmitted(str(error).strip() or type(error).__name__) from error
    return [str(job.job_id) for job in jobs]


def slurm_script(logs: Path, python: str, parameters: Mapping[str, Any], tasks: int) -> str:
    """The batch script of a job, or of an array of ``tasks``, byte for byte as it is submitted."""
    executor = _slurm_executor(logs, python, parameters)
    if tasks > 1:
        executor.parameters["map_count"] = tasks
    return str(executor._make_submission_file_text(executor._submitit_command_str, uid=""))


def _call(call: Callable[[], Any]) -> Any:
    return call()


def _slurm_executor(logs: Path, python: str, parameters: Mapping[str, Any]) -> Any:
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


def place(init_method: str) -> Place:
    """This process among those of its job."""
    import submitit

    environment = submitit.JobEnvironment()
    return Place(
        rank=environment.global_rank,
        world_size=environment.num_tasks,
        local_rank=environment.local_rank,
        local_world_size=environment.num_tasks // environment.num_nodes,
        init_method=init_method,
    )


def first_host() -> str:
    """The node of rank 0 of this process's job."""
    import submitit

    return str(submitit.JobEnvironment().hostnames[0])
