"""Jobs that are processes of this machine: how commands start, find, end and kill them.

`ProcessCluster` is what the clusters of such jobs have in common.
"""

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cld_core.errors import RecipeError
from cld_core.ownership import require_private
from cld_core.records import real, whole
from cld_core.run import pids as processes
from cld_core.run.events import JobRef

from .base import Answer, Cluster, JobSpec, SchedulerRefused, Survey

if TYPE_CHECKING:
    from cld_core.rendezvous import Place

# The working directory is not searched for modules.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}


def place(init_method: str) -> "Place":
    """This process among those of its job, according to submitit."""
    import submitit

    from cld_core.rendezvous import Place  # Only jobs need it.

    environment = submitit.JobEnvironment()
    return Place(
        rank=environment.global_rank,
        world_size=environment.num_tasks,
        local_rank=environment.local_rank,
        local_world_size=environment.num_tasks // environment.num_nodes,
        init_method=init_method,
    )


class ProcessCluster(Cluster):
    """A cluster whose jobs are processes of this machine, which `details_of` describes."""

    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        """Refuse jobs of several machines, or of GPUs on a machine without one."""
        size = spec.size
        found = gpus()
        lacks_gpus = size.uses_gpu and not found
        if size.nodes > 1:
            settings = ["cluster.nodes=1"]
            if size.gpus_per_node and size.gpus_per_node != found:
                settings.append(f"cluster.gpus_per_node={found}")
            if size.tasks_per_node is not None and size.uses_gpu:
                settings.append(f"cluster.tasks_per_node={max(found, 1)}")
            if lacks_gpus:
                raise RecipeError(
                    f"recipe: 'cluster.nodes' is {size.nodes}, but this cluster is one machine "
                    "without a visible GPU. Submit it where the GPUs are, or to try it on the CPU, "
                    f"which is slow, set {' '.join(settings)}."
                )
            raise RecipeError(
                f"recipe: 'cluster.nodes' is {size.nodes}, but this cluster is one machine. "
                f"Set {' '.join(settings)}."
            )
        if lacks_gpus and size.gpus_per_node:
            raise RecipeError(
                f"recipe: 'cluster.gpus_per_node' is {size.gpus_per_node}, but no GPU is visible "
                "on this machine. Submit it where the GPUs are, or to try it on the CPU, which is "
                "slow, set cluster.gpus_per_node=0."
            )
        if lacks_gpus:
            raise RecipeError(
                "recipe: 'cluster.gres' or an argument of sbatch or srun asks for GPUs, but none "
                "is visible on this machine. Submit it where the GPUs are, or to try it on the "
                "CPU, which is slow, set cluster.gres=null cluster.sbatch_args=[] "
                "cluster.srun_args=[]."
            )

    def living(self, jobs: Collection[JobRef]) -> dict[str, list[Any]]:
        """By job id, the processes that get the signals for a job; none if it has ended."""
        # `submit` of a cluster that blocks has returned: this process runs no job.
        found = {job.job_id: find(job.details) for job in jobs}
        return {
            job_id: [process]
            for job_id, process in found.items()
            if process is not None and process.pid != os.getpid()
        }

    def wait_for_start(self, jobs: Collection[JobRef]) -> None:
        """Wait until jobs that are starting take signals."""

    def survey(
        self, jobs: Collection[JobRef], *, settled: Collection[JobRef] = (), max_age_s: float = 30.0
    ) -> Survey:
        living = self.living(jobs)
        return Survey({job.job_id: self.answer(job, job.job_id in living) for job in jobs})

    def answer(self, job: JobRef, is_alive: bool) -> Answer:
        """What is known about a job of which this machine runs a process, or none."""
        host = str(job.details.get("host", ""))
        if not is_here(job.details):
            return Answer("unknown", node=host, reason=f"started on {host}")
        return Answer("running" if is_alive else "gone", node=host)

    def cancel(self, jobs: Collection[JobRef]) -> None:
        for job in jobs:
            require_ours(find(job.details))
        self.wait_for_start(jobs)
        for members in self.living(jobs).values():
            for process in members:
                send(process, signal.SIGTERM)

    def kill(self, jobs: Collection[JobRef]) -> None:
        living = self.living(jobs)
        for job in jobs:
            for process in [*living.get(job.job_id, ()), find(job.details)]:
                send(process, signal.SIGKILL, family=True)


def gpus() -> int:
    """Number of GPUs that processes here may use, as far as it is known without torch."""
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        if (chosen := os.environ.get(variable)) is not None:
            return len([name for name in chosen.split(",") if name.strip() not in ("", "-1")])
    devices = [
        file for file in Path("/dev").glob("nvidia*") if file.name.removeprefix("nvidia").isdigit()
    ]
    if devices:
        return len(devices)
    # The devices of AMD's GPUs, and of any GPU under Windows, do not show how many there are.
    return int(os.path.exists("/dev/kfd") or os.path.exists("/dev/dxg"))


def file_system_of(path: Path) -> tuple[str, str]:
    """Type and device of the file system that holds, or will hold, ``path``.

    For example ("nfs4", "server:/home").
    """
    import psutil

    where = path.resolve()
    # The last of several mounts at the same place hides the others.
    mounts = [
        mount
        for mount in reversed(psutil.disk_partitions(all=True))
        if where.is_relative_to(mount.mountpoint)
    ]
    if not mounts:
        return "unknown", ""
    nearest = max(mounts, key=lambda mount: len(mount.mountpoint))
    return nearest.fstype, nearest.device


def scratch_folder(near: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder on the file system that holds, or will hold, ``near``.

    Raises:
        OSError: no folder can be created there.
    """
    path = near.absolute()
    nearest = next(folder for folder in (path, *path.parents) if folder.is_dir())
    return tempfile.TemporaryDirectory(
        prefix=".cldctl-doctor-", dir=nearest, ignore_cleanup_errors=True
    )


def details_of(pid: int) -> dict[str, Any]:
    """What other processes need to find this one, for `JobRef.details`; JSON."""
    return {"host": socket.gethostname(), "pid": pid, "process_started": processes.start_time(pid)}


def is_here(details: Mapping[str, Any]) -> bool:
    """Whether the process was started on this machine."""
    return details.get("host") == socket.gethostname()


def find(details: Mapping[str, Any]) -> Any:
    """The `psutil.Process` that `details_of` describes.

    None if it has ended or was started on another machine, or if its start is not known, which
    tells it from a later process with the same id.
    """
    pid = whole(details.get("pid"), least=2)
    started = real(details.get("process_started"))
    if pid is None or started is None or not is_here(details):
        return None
    return processes.find(pid, started)


def require_ours(process: Any) -> None:
    """Refuse to signal a process that does not run this software (`processes.not_ours`).

    Raises:
        SchedulerRefused: the process does not run this software; the message has the fix.
    """
    if process is not None and (reason := processes.not_ours(process)) is not None:
        raise SchedulerRefused(
            f"process {process.pid} on this machine {reason}, and was left alone. If it belongs to "
            f"the run, end it with `kill {process.pid}`."
        )


def end(process: Any, grace_s: float = 60.0) -> None:
    """Send SIGTERM to a process, whose peers stop with it, and SIGKILL after ``grace_s`` seconds.

    Raises:
        SchedulerRefused: the process does not run this software; the message has the fix.
    """
    require_ours(process)
    send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while process is not None and processes.is_up(process) and time.monotonic() < deadline:
        time.sleep(0.1)
    send(process, signal.SIGKILL)


def send(process: Any, number: int, *, family: bool = False) -> None:
    """Send a signal to a `psutil.Process`, unless it is None, has ended, or is of other software.

    Args:
        family: its descendants get the signal, too.
    """
    import psutil

    if process is None or processes.not_ours(process) is not None:
        return
    with contextlib.suppress(psutil.Error):
        members = [process]
        if family:
            members += process.children(recursive=True)
        for member in members:
            with contextlib.suppress(psutil.Error):
                member.send_signal(number)


def safe_path(code: Path | None = None) -> dict[str, str]:
    """Variables with which Python and its children import nothing from the working directory.

    An empty element of PYTHONPATH, as in ``export PYTHONPATH=$PYTHONPATH:/mine``, means the working
    directory, and is dropped. A relative element is made absolute, since a process in another
    folder would import from there.

    Args:
        code: an element to leave out. A job that submits the next one has it, and the next one adds
            its own.
    """
    elements = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [os.path.abspath(element) for element in elements if element not in ("", str(code))]
    return {**SAFE_PATH, "PYTHONPATH": os.pathsep.join(kept)}


def path_from(code: Path | None) -> dict[str, str]:
    """Variables with which Python imports from the folder ``code`` first; none without it.

    Raises:
        CldError: another user owns the folder, or can write into it.
        OSError: it is missing.
    """
    if code is None:
        return {}
    require_private(code, "the job would run what is in it")
    elements = [str(code), safe_path(code)["PYTHONPATH"]]
    return {"PYTHONPATH": os.pathsep.join(filter(None, elements))}


@contextlib.contextmanager
def detached_children(env: Mapping[str, str]) -> Iterator[None]:
    """Let processes that this block starts outlive this process and its terminal.

    They get the variables ``env``. They ignore the signals of a terminal (Ctrl-C, Ctrl-Z, hang-up),
    since ignored signals stay ignored across exec; SIGUSR2 and SIGTERM, which end a job, still
    reach them. They do not keep this process's pipes open, so that the reader of
    `cldctl submit | ...` sees the end of its input; the output of a job goes to its logs. They
    import nothing from the working directory (`safe_path`).
    """
    with contextlib.ExitStack() as after:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
            after.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN))
        sys.stdout.flush()
        sys.stderr.flush()
        nowhere = os.open(os.devnull, os.O_RDWR)
        after.callback(os.close, nowhere)
        for descriptor in range(3):
            kept = os.dup(descriptor)
            after.callback(os.close, kept)
            os.dup2(nowhere, descriptor)
            after.callback(os.dup2, kept, descriptor)
        after.enter_context(variables({**os.environ, **safe_path(), **env}))
        yield


@contextlib.contextmanager
def variables(only: Mapping[str, str]) -> Iterator[None]:
    """Reduce the environment to the variables ``only`` for the duration of the block."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(only)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
