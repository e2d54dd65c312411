"""Processes of this machine, told from later ones with the same id by the time at which they began."""

import os
import re
import shlex
import time
from pathlib import PurePath
from typing import Any

from cld_core.sanitize import one_line

# The start time of a process is derived from the clock, which may have been set since it was noted.
_CLOCK_TOLERANCE_S = 2.0
_BEGINNING_S = 1.0
# What our processes run, as a word of Python's command line: a module of cldctl, of training without it, or of
# submitit, or a script.
_MODULE = re.compile(r"(-m)?(cldctl|cld_core|submitit\.core|submitit\.local)(\.[\w.]+)?")
_SCRIPT = re.compile(r"(.*/)?(cldctl|(cldctl|cld_core)/.*__main__\.py)")


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
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return None


def not_ours(process: Any) -> str | None:
    """Why a `psutil.Process` must not be signalled because of what a run folder says; None if it may be.

    Folders can be copied, damaged or made by somebody else, and process ids are given again: a process is one of ours
    if it belongs to this user and runs cldctl, training without it, or what submitit starts.
    """
    import psutil

    try:
        owner, words = process.uids().real, _command_line(process)
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return "cannot be looked at"
    if owner != os.getuid():
        return "belongs to another user"
    is_python = bool(words) and PurePath(words[0]).name.startswith(("python", "pypy"))
    if is_python and any(_MODULE.fullmatch(word) or _SCRIPT.fullmatch(word) for word in words[1:]):
        return None
    return f"runs something else (`{one_line(shlex.join(words), 80)}`)"


def _command_line(process: Any) -> list[str]:
    """The words of a process's command line, which is empty for a moment while the process begins."""
    deadline = time.monotonic() + _BEGINNING_S
    while not (words := process.cmdline()) and is_up(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    return list(words)


def is_up(process: Any) -> bool:
    """Whether a `psutil.Process` is alive; a stopped one is, a zombie is not."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
