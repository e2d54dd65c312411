"""The only file that imports submitit."""

import contextlib
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cld_core.errors import CldError

from . import slurm
from .jobspec import JobSpec

# Seconds that a controller which did not answer is given to say what it has taken.
_AWAY_S = 60.0


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

    executor, began = _slurm_executor(spec), time.time()
    try:
        jobs = executor.map_array(lambda call: call(), calls) if len(calls) > 1 else [executor.submit(calls[0])]
    except OSError as error:
        raise SchedulerError(f"{spec.logs}: the job could not be written ({error.strerror or error}).") from error
    except (FailedJobError, FailedSubmissionError) as error:
        said = str(error).strip().splitlines()
        told = [line for line in said if line.startswith("sbatch: error:")]
        text = (told or said or [type(error).__name__])[0].removeprefix("sbatch: error: ")
        if "timed out" in str(error).lower():
            fix = _withdraw(spec.name, began)
        elif "contact slurm controller" in str(error).lower():
            fix = "Try again when slurmctld answers, or use --cluster local"
        else:
            see = "(`cldctl submit --dry-run` shows the script)"
            fix = f"Mend the cluster.* keys or the profile {see}, or use --cluster local"
        raise SchedulerError(f"sbatch refused the job {spec.name}: {text}. {fix}.") from error
    return [Submitted(job.job_id, "slurm", socket.gethostname()) for job in jobs]


def _withdraw(name: str, since: float) -> str:
    """Cancel what an sbatch that got no answer may have submitted all the same; returns what to do now."""
    deadline = time.monotonic() + _AWAY_S
    while (jobs := slurm.submitted_since(name, since)) is None and time.monotonic() < deadline:
        time.sleep(1.0)
    if jobs is None:
        return f"It may wait there all the same: before you try again, look with `squeue --me --name={name}`"
    if jobs and (problem := slurm.cancel(jobs)) is not None:
        return f"It was submitted as job {', '.join(jobs)}, which could not be cancelled ({problem}): scancel it"
    done = f"What had been submitted (job {', '.join(jobs)}) is cancelled. " if jobs else ""
    return f"{done}Try again when slurmctld answers, or use --cluster local"


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
