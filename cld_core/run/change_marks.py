"""Which runs may have changed: marks beside the runs, for readers that remember what they have read.

`.changes/NAME.TOKEN` is an empty file. Whoever is about to write into the run NAME makes one with a new random token
and removes those that were there before. A reader that remembers a run together with its tokens learns from one
listing whether anybody has announced a write since.

A process marks a run at most once in `_AGAIN_S` seconds; what it writes meanwhile needs no further mark, because no
reader relies on marks that are younger than `QUIET_S`.
"""

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import Mapping
from pathlib import Path

FOLDER = ".changes"
# Seconds: far longer than `_AGAIN_S` and a write that a slow disk keeps waiting, and more than clocks differ.
QUIET_S = 600.0
_AGAIN_S = 30.0
_MARK = re.compile(r"(.+)\.([0-9a-f]{16})")

# By run, when this process last marked it (monotonic), and the token.
_marked: dict[Path, tuple[float, str]] = {}


def mark(run: Path) -> None:
    """Announce that something will be written into the run at this path. It never fails: the write matters more.

    A folder without a run in it gets no marks.
    """
    before = _marked.get(run)
    if before is not None and time.monotonic() - before[0] < _AGAIN_S:
        return
    with contextlib.suppress(OSError):
        (run / "run.json").lstat()
        folder = _made(run.parent)
        # Listed before the new one exists: of two processes that mark a run, none removes the other's newer mark.
        old = tokens(run.parent).get(run.name, ()) if before is None else (before[1],)
        token = secrets.token_hex(8)
        (folder / f"{run.name}.{token}").touch(exist_ok=False)
        _marked[run] = time.monotonic(), token
        for other in old:
            with contextlib.suppress(OSError):
                (folder / f"{run.name}.{other}").unlink()


def mark_of(file: Path) -> None:
    """As `mark`, for the run that a ledger is part of: of the run itself, of one of its evaluations or tunings."""
    folder = file.parent
    mark(folder.parent.parent if folder.parent.name in ("evals", "tuned") else folder)


def tokens(root: Path) -> Mapping[str, tuple[str, ...]]:
    """The tokens of all marked runs under ``root``, sorted, by name of the run.

    Raises:
        OSError: they cannot be listed at this moment.
    """
    try:
        names = os.listdir(root / FOLDER)
    except FileNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for name in names:
        if match := _MARK.fullmatch(name):
            found.setdefault(match[1], []).append(match[2])
    return {name: tuple(sorted(several)) for name, several in found.items()}


def newest_mark(root: Path, name: str, known: tuple[str, ...]) -> float:
    """When a run was last marked with one of these tokens, seconds since 1970; 0 without any.

    Raises:
        OSError: a mark is gone: the run has been marked again.
    """
    return max((os.lstat(root / FOLDER / f"{name}.{token}").st_mtime for token in known), default=0.0)


def reach(root: Path, run: os.stat_result) -> bool:
    """Whether whoever may write into a run with this status can mark it, too; if not, marks say nothing about it."""
    try:
        folder = os.lstat(root / FOLDER)
    except FileNotFoundError:
        # The first mark makes it like the folder of the runs.
        folder = os.stat(root)
    if not stat.S_ISDIR(folder.st_mode):
        return False
    if folder.st_mode & stat.S_IWOTH:
        return True
    shared = bool(folder.st_mode & stat.S_IWGRP)
    by_owner = run.st_uid == folder.st_uid or shared
    by_group = not run.st_mode & stat.S_IWGRP or (shared and run.st_gid == folder.st_gid)
    return by_owner and by_group and not run.st_mode & stat.S_IWOTH


def _made(root: Path) -> Path:
    """The folder of marks: as open to others as that of the runs."""
    folder = root / FOLDER
    try:
        folder.mkdir()
    except FileExistsError:
        return folder
    folder.chmod(stat.S_IMODE(root.stat().st_mode))
    return folder
