"""Local jobs of submitit, and the place of a process in any job of submitit."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cld_core.place import Place

# What each process of a local job runs, with the log folder as its last argument.
LOCAL_MODULE = "submitit.core._submit"
# submitit wants a number of minutes.
FOREVER_MIN = 10 * 365 * 24 * 60


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
