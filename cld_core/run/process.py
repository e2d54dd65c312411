"""Processes of this machine, told from later ones with the same id by the time at which they began."""

from typing import Any

# The start time of a process is derived from the clock, which may have been set since it was noted.
_CLOCK_TOLERANCE_S = 2.0


def start_time(pid: int) -> float | None:
    """When the process began, seconds since 1970; None if it has ended."""
    process = find(pid)
    return None if process is None else float(process.create_time())


def find(pid: int, started: float | None = None) -> Any:
    """The `psutil.Process` with this id; None if it has ended.

    Args:
        started: its `start_time`; a process that began at another time is not the one. None accepts any.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        is_same = started is None or abs(process.create_time() - started) < _CLOCK_TOLERANCE_S
        return process if is_same and is_up(process) else None
    except psutil.NoSuchProcess:
        return None


def is_up(process: Any) -> bool:
    """Whether a `psutil.Process` is alive; a stopped one is, a zombie is not."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
