"""The only file that imports submitit."""

import contextlib
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cld_core.errors import CldError

from .jobspec import JobSpec


class SchedulerError(CldError):
    """The scheduler refused a job or is away."""

    exit_code = 4


@dataclass(frozen=True)
class Submitted:
    """A job that exists now, and what finds it again from another process."""

    job_id: str
    cluster: str
    host: str
    process_started: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def submit_local(spec: JobSpec, call: Callable[[], Any]) -> Submitted:
    """Start ``call`` in `spec.tasks_per_node` processes that outlive this one and its terminal."""
    import psutil
    import submitit

    executor = submitit.LocalExecutor(folder=spec.logs)
    executor.update_parameters(**spec.local_parameters())
    try:
        with _detached_children():
            job = executor.submit(call)
    except OSError as error:
        raise SchedulerError(
            f"{spec.logs}: the local job could not be started ({error}). Mend it and resume."
        ) from error
    with contextlib.suppress(psutil.NoSuchProcess):
        return Submitted(job.job_id, "local", socket.gethostname(), psutil.Process(int(job.job_id)).create_time())
    return Submitted(job.job_id, "local", socket.gethostname())


def submit_slurm(spec: JobSpec, calls: Sequence[Callable[[], Any]]) -> list[Submitted]:
    """Submit one job, or an array where there are several ``calls``.

    Raises:
        SchedulerError: sbatch refused, or there is none.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = _slurm_executor(spec)
    try:
        jobs = executor.map_array(lambda call: call(), calls) if len(calls) > 1 else [executor.submit(calls[0])]
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        said = str(error).strip().splitlines()
        text = said[-1] if said else type(error).__name__
        away = "contact slurm controller" in text or "timed out" in text.lower()
        fix = (
            "Try again when slurmctld answers"
            if away
            else "Mend the cluster.* keys or the profile (`cldctl submit --dry-run` shows the script)"
        )
        raise SchedulerError(f"sbatch refused the job {spec.name}: {text}. {fix}, or use --cluster local.") from error
    return [Submitted(job.job_id, "slurm", socket.gethostname()) for job in jobs]


def slurm_script(spec: JobSpec, tasks: int = 1) -> str:
    """The sbatch script of a job, or of an array of ``tasks``, byte for byte as it is submitted."""
    executor = _slurm_executor(spec)
    if tasks > 1:
        executor.parameters["map_count"] = tasks
    return str(executor._make_submission_file_text(executor._submitit_command_str, uid=""))


def _slurm_executor(spec: JobSpec) -> Any:
    import submitit

    try:
        executor = submitit.SlurmExecutor(folder=spec.logs, python=python_command(spec))
    except RuntimeError as error:
        raise SchedulerError(f"there is no Slurm on this machine ({error}). Use --cluster local.") from error
    try:
        executor.update_parameters(**spec.slurm_parameters())
    except ValueError as error:
        raise SchedulerError(f"this job cannot be described to sbatch: {error}") from error
    return executor


def python_command(spec: JobSpec) -> str:
    """The python of this environment, behind the container's command where there is one."""
    container = spec.resources.container
    return f"{container} {shlex.quote(sys.executable)}" if container else shlex.quote(sys.executable)


def local_command(spec: JobSpec) -> str:
    """The command that each rank of a local job runs, for ``--dry-run``."""
    parameters = spec.local_parameters()
    command = f"{sys.executable} -u -m submitit.core._submit {spec.logs}"
    return f"# local: {parameters['tasks_per_node']} process(es), each:\n{command}\n"


def distributed_environment() -> dict[str, str]:
    """Rank, world size and meeting point of this task of a submitted job, as torch's environment variables."""
    import submitit.helpers

    environment = submitit.helpers.TorchDistributedEnvironment()
    return {
        "RANK": str(environment.rank),
        "WORLD_SIZE": str(environment.world_size),
        "LOCAL_RANK": str(environment.local_rank),
        "LOCAL_WORLD_SIZE": str(environment.local_world_size),
        "MASTER_ADDR": environment.master_addr,
        "MASTER_PORT": str(environment.master_port),
    }


def job_id() -> str:
    """The id of the job that this process is a task of."""
    import submitit

    return submitit.JobEnvironment().job_id


@contextlib.contextmanager
def _detached_children() -> Iterator[None]:
    """Processes started inside outlive this one and its terminal.

    They ignore what a terminal sends (Ctrl-C, Ctrl-Z, its own end): ignored signals stay ignored across exec.
    SIGUSR2 and SIGTERM, which end a job, still reach them. And they do not hold this process's pipes open, on
    whose end the reader of `cldctl submit | ...` waits; a rank's output goes to its log.
    """
    ignored = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in range(3)]
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    try:
        yield
    finally:
        for descriptor, copy in enumerate(kept):
            os.dup2(copy, descriptor)
        for descriptor in (*kept, nowhere):
            os.close(descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
