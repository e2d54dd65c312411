"""Jobs of the local executor, seen from another process: alive or not, and how to end them."""

import contextlib
import signal
import socket
import time
from typing import Any

from .slurm import UNKNOWN, Seen

GRACE_S = 60.0


def look(job: dict[str, Any]) -> Seen:
    """Whether the controller of a local job lives; unknown where it was started on another machine."""
    if job.get("host") != socket.gethostname():
        return UNKNOWN
    return Seen("gone") if _process(job) is None else Seen("running")


def cancel(job: dict[str, Any], grace_s: float = GRACE_S) -> bool:
    """Send SIGTERM to a job, which saves and ends, and kill what is left after ``grace_s`` seconds.

    Returns whether there was a job to end.
    """
    controller = _process(job)
    if controller is None:
        return False
    # The controller forwards the signal to the ranks.
    _end(controller, [controller, *controller.children(recursive=True)], grace_s)
    return True


def end_process(pid: int, grace_s: float = GRACE_S) -> None:
    """Send SIGTERM to one process, whose peers stop with it, and kill it if it is there after ``grace_s`` seconds."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        _end(process, [process], grace_s)


def _end(first: Any, family: list[Any], grace_s: float) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        first.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(_is_up(process) for process in family):
        time.sleep(0.1)
    for process in family:
        if _is_up(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _process(job: dict[str, Any]) -> Any:
    import psutil

    try:
        process = psutil.Process(int(job["job_id"]))
        same = job.get("process_started") in (None, process.create_time())
        return process if same and _is_up(process) else None
    except psutil.NoSuchProcess:
        return None


def _is_up(process: Any) -> bool:
    import psutil

    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
