"""Local jobs of submitit, and the place of a process in any job of submitit."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cld_core.rendezvous import Place

from . import job_logs

# What each process of a job runs, with the log folder as its last argument.
ENTRY = "cldctl.clusters.entry"
# submitit wants a number of minutes.
FOREVER_MIN = 10 * 365 * 24 * 60


def start_local(logs: Path, call: Callable[[], Any], *, processes: int, gpus: int) -> int:
    """Start ``call`` in several processes; returns the process id of their controller. They have no time limit.

    Raises:
        CldError: others may write into the folder.
        OSError: a file could not be written, or the controller could not be started.
    """
    from submitit.core.utils import JobPaths
    from submitit.local.local import start_controller

    job_logs.prepare(logs)
    pickled = job_logs.store(logs, call, FOREVER_MIN)
    try:
        controller = start_controller(
            logs,
            local_command(logs),
            tasks_per_node=processes,
            cuda_devices=",".join(map(str, range(gpus))),
            timeout_min=FOREVER_MIN,
        )
    except BaseException:
        pickled.unlink(missing_ok=True)
        raise
    pickled.rename(JobPaths(logs, str(controller.pid)).submitted_pickle)
    return int(controller.pid)


def python_command() -> str:
    """The Python of this environment, which imports nothing from the working directory."""
    return f"{shlex.quote(sys.executable)} -P"


def command(python: str, logs: Path) -> str:
    """The command that each process of a job runs."""
    return f"{python} -u -m {ENTRY} {shlex.quote(str(logs))}"


def local_command(logs: Path) -> str:
    """The command that each process of a local job runs."""
    return command(python_command(), logs)


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
