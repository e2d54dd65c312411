"""Tasks of local jobs, found by another process: by their controller, and in a pool by their number."""

import contextlib
import time
from pathlib import Path
from typing import Any

from cld_core.run.events import JobRef

from . import this_machine
from .base import Seen

# Seconds in which a controller starts its processes, also on a busy machine.
_STARTING_S = 10.0


def seen(job: JobRef) -> Seen:
    host = str(job.details.get("host", ""))
    if not this_machine.is_here(job.details):
        return Seen("unknown", node=host, reason=f"started on {host}")
    if this_machine.find(job.details) is None:
        return Seen("gone", node=host)
    waits_for = [str(other["pid"]) for other in job.details.get("waits_for", ()) if this_machine.is_alive(other)]
    if waits_for:
        return Seen("pending", node=host, reason=f"waits for job {', '.join(waits_for)}")
    began = _has_begun(job)
    return Seen("gone" if began and process_of(job) is None else "running", node=host)


def wait_for_begin(job: JobRef) -> None:
    """Wait until all processes of a task have begun, or the task has ended; does not wait for ever."""
    deadline = time.monotonic() + _STARTING_S
    while this_machine.is_alive(job.details) and not _has_begun(job) and time.monotonic() < deadline:
        time.sleep(0.05)


def process_of(job: JobRef) -> Any:
    """The process to signal: a task's own in a pool, else the controller; None if it has ended or not begun."""
    import psutil

    controller = this_machine.find(job.details)
    if controller is None or not job.details.get("pooled"):
        return controller
    with contextlib.suppress(psutil.NoSuchProcess):
        return next((child for child in controller.children() if _number_of(child) in (job.process, None)), None)
    return None


def _has_begun(job: JobRef) -> bool:
    """Whether all processes of the task have begun: submitit writes a line to their logs first of all."""
    numbers = range(job.process, job.process + job.details.get("ranks", 1))
    logs = [Path(job.logs) / f"{job.details['pid']}_{number}_log.out" for number in numbers]
    return all(log.is_file() and log.stat().st_size > 0 for log in logs)


def _number_of(process: Any) -> int | None:
    """The number of a process among those of its controller; -1 if it has none, None if this user may not see it."""
    import psutil

    try:
        return int(process.environ().get("SUBMITIT_LOCAL_GLOBALID", -1))
    except psutil.AccessDenied:
        return None
    except psutil.Error:
        return -1
