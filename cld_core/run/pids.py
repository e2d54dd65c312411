"""Processes of this machine; their start time tells them from later ones with the same id."""

import os
import time
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

# The start time of a process is derived from the clock, which may have been set since it was noted.
_CLOCK_TOLERANCE_S = 2.0
_BEGINNING_S = 1.0
# Modules or scripts of our processes: cldctl, training without it, and submitit.
_PROGRAMS = ("cldctl", "cld_core", "submitit.core", "submitit.local")
# Options of Python that take a value in the next word.
_WITH_VALUE = ("-X", "-W")


def start_time(pid: int) -> float | None:
    """When the process began, seconds since 1970; None if it has ended."""
    process = find(pid)
    return None if process is None else float(process.create_time())


def find(pid: int, started: float | None = None) -> Any:
    """The `psutil.Process` with this id; None if it has ended.

    Args:
        started: the `start_time` of the process; one that began at another time is not returned.
            None accepts any time.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        is_same = started is None or abs(process.create_time() - started) < _CLOCK_TOLERANCE_S
        return process if is_same and is_up(process) else None
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return None


def not_ours(process: Any) -> str | None:
    """Why a `psutil.Process` that a run folder names must not be signalled; None if it may be.

    Folders can be copied, damaged or made by other users, and process ids are reused: a process is
    one of ours if it belongs to this user and runs cldctl, training without it, or what submitit
    starts.
    """
    import psutil

    try:
        owner = process.uids().real
        words = _command_line(process)
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return "cannot be inspected"
    if owner != os.getuid():
        return "belongs to another user"
    program = program_of(words)
    if any(program == ours or program.startswith(f"{ours}.") for ours in _PROGRAMS):
        return None
    return f"runs {program or 'something else'}"


def _command_line(process: Any) -> list[str]:
    """The words of a process's command line, which is empty for a moment after its start."""
    deadline = time.monotonic() + _BEGINNING_S
    while not (words := process.cmdline()) and is_up(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    return list(words)


def program_of(words: Sequence[str]) -> str:
    """The program of a command line: for Python the module or the name of the script, or empty."""
    if not words:
        return ""
    program = PurePath(words[0]).name
    if not program.startswith(("python", "pypy")):
        return program
    rest = iter(words[1:])
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return _of_script(PurePath(word))
        elif word.startswith(("--", *_WITH_VALUE)):
            continue
        elif "m" in word:
            return word.partition("m")[2] or next(rest, "")
        elif "c" in word:
            return ""
    return ""


def _of_script(path: PurePath) -> str:
    """The module that a script is, for ``python .../cld_core/train/__main__.py``; else its name."""
    if path.name != "__main__.py":
        return path.name
    parts = path.parts[:-1]
    for package in ("cldctl", "cld_core"):
        if package in parts:
            return ".".join(parts[parts.index(package) :])
    return path.name


def is_up(process: Any) -> bool:
    """Whether a `psutil.Process` is alive; a stopped one is, a zombie is not."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
