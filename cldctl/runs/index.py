"""The runs of a folder, without reading again those that are over and have not changed.

What is remembered is a cache (`index_file`), which may be deleted at any time. docs/architecture.md, "Index", says why
its rows are right.
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cld_core.run import RunFolder, changes
from cld_core.run.events import JobRef
from cld_core.run.folder import is_name
from cld_core.run.lease import seems_alive

from . import home, index_file, survey
from .index_file import Entry
from .state import OVER
from .status import RunStatus, status_or_reason
from .survey import Answers

T = TypeVar("T")
R = TypeVar("R")

# For so many seconds remembered rows are compared with their files, each time; on a local disk, all of them are.
CHECK_S = 0.3
# Threads that read files: on a shared disk, each of them mostly waits.
_THREADS = 16
# They are used if each of the first few items made this process wait so long; on a local disk, they cost more.
_FIRST, _SLOW_S = 4, 0.001
_AT_ONCE = 128
# What a row is made of, besides the evaluations.
_FILES = ("run.json", "attempts.jsonl", "progress.json", "checkpoints", "evals")
_LINK = -1


@dataclass(frozen=True)
class Found:
    """What is in a folder of runs.

    Attributes:
        rows: of every run, oldest first.
        answers: what the clusters said about the runs that had to be read.
        closed: by name, why this user cannot see whether a folder is a run.
    """

    rows: list[RunStatus]
    answers: Answers
    closed: dict[str, str]


@dataclass(frozen=True)
class _Read:
    """A run whose files are read: how they were just before, and its jobs with whether their end is known."""

    run: RunFolder
    files: Mapping[str, Sequence[int] | None]
    jobs: tuple[tuple[JobRef, bool], ...]


class Index:
    """The runs of one folder. Each question reads those that may have changed since the one before.

    Args:
        root: the folder of the runs.
        fresh: forget what was remembered, and read everything.
    """

    def __init__(self, root: Path, *, fresh: bool = False) -> None:
        self.root = root.absolute()
        self._file = index_file.file_for(self.root)
        self._entries = {} if fresh or self._file is None else index_file.load(self._file)
        self._unchecked: list[str] = []

    def look(self, *, max_age_s: float = 0.0, check_s: float = CHECK_S) -> Found:
        """The status of every run.

        Args:
            max_age_s: an answer of a cluster of this age, in seconds, is good enough.
            check_s: for how many seconds remembered rows are compared with their files.
        """
        folders, tokens = _folders(self.root), _tokens(self.root)
        known = len(self._entries)
        self._forget_changed(folders, tokens, check_s)
        kept = [RunStatus(**it.row, path=str(self.root / name)) for name, it in self._entries.items()]
        others = [RunFolder(self.root / name) for name in folders if name not in self._entries]
        reasons = side_by_side(lambda run: run.unreadable, others)
        closed = {run.name: reason for run, reason in zip(others, reasons, strict=True) if reason is not None}
        read = [it for it in side_by_side(_read, others) if it is not None]
        answers = _ask(read, max_age_s)
        rows = side_by_side(lambda it: status_or_reason(it.run, answers), read)
        new = side_by_side(
            lambda it: self._entry(*it, folders, tokens or {}, answers), list(zip(read, rows, strict=True))
        )
        if tokens is not None:
            self._entries |= {it.run.name: entry for it, entry in zip(read, new, strict=True) if entry is not None}
        if self._file is not None and (any(new) or len(self._entries) != known):
            index_file.save(self._file, self._entries)
        rows = sorted([*kept, *rows], key=lambda row: (row.created or 0.0, row.name))
        return Found(rows, answers, dict(sorted(closed.items())))

    def unfinished(self) -> list[RunFolder]:
        """The runs that are not known to be finished, oldest first."""
        folders = _folders(self.root)
        self._forget_changed(folders, _tokens(self.root), CHECK_S)
        done = {name for name, entry in self._entries.items() if entry.row["state"] == "FINISHED"}
        return [run for _, run in self._by_age([name for name in folders if name not in done])]

    def newest(self) -> RunFolder | None:
        """The run that was made last; None without runs."""
        folders = _folders(self.root)
        self._forget_changed(folders, _tokens(self.root), 0.0)
        return max(self._by_age(folders), key=lambda it: (it[0], it[1].name), default=(0.0, None))[1]

    def _by_age(self, names: Collection[str]) -> list[tuple[float, RunFolder]]:
        """Those of the folders that are runs, and when they were made, oldest first."""
        known = {name: self._entries[name].row["created"] or 0.0 for name in names if name in self._entries}
        runs = [RunFolder(self.root / name) for name in names]
        ages = side_by_side(lambda run: known[run.name] if run.name in known else _created(run), runs)
        found = [(age, run) for run, age in zip(runs, ages, strict=True) if age is not None]
        return sorted(found, key=lambda it: (it[0], it[1].name))

    def _forget_changed(
        self, folders: Mapping[str, int], tokens: Mapping[str, tuple[str, ...]] | None, check_s: float
    ) -> None:
        """Forget runs that are gone, were replaced or marked, or whose files have changed.

        Args:
            tokens: None if they could not be listed: any run may have been marked.
        """
        self._entries = {
            name: entry
            for name, entry in self._entries.items()
            if tokens is not None and folders.get(name) == entry.inode and tokens.get(name, ()) == entry.tokens
        }
        for name in self._different(time.monotonic() + check_s) if check_s > 0 else ():
            del self._entries[name]

    def _different(self, until: float) -> list[str]:
        """Those of the remembered runs, as many as there is time for, whose files are not as they were.

        It begins anywhere, and then where it ended: whatever changed without a mark is noticed sooner or later.
        """
        if not self._unchecked:
            names = list(self._entries)
            begin = int.from_bytes(os.urandom(4)) % max(1, len(names))
            self._unchecked = names[begin:] + names[:begin]
        different: list[str] = []
        while self._unchecked and time.monotonic() < until:
            names = [name for name in self._unchecked[:_AT_ONCE] if name in self._entries]
            del self._unchecked[:_AT_ONCE]
            now = side_by_side(lambda name: _status_of(self.root / name, self._entries[name].files), names)
            different += [name for name, files in zip(names, now, strict=True) if files != self._entries[name].files]
        return different

    def _entry(
        self,
        read: _Read,
        row: RunStatus,
        folders: Mapping[str, int],
        tokens: Mapping[str, tuple[str, ...]],
        answers: Answers,
    ) -> Entry | None:
        """What to remember of a run; None if its row may change without a mark, or may already have."""
        name = read.run.name
        is_over = row.is_readable and row.state in OVER and row.as_of is None and not answers.is_stale(row.cluster)
        if not is_over or folders[name] == _LINK or not is_name(name) or _has_live_jobs(read, answers):
            return None
        mine = tokens.get(name, ())
        try:
            times = [changes.newest_mark(self.root, name, mine), *(it[2] / 1e9 for it in read.files.values() if it)]
            is_quiet = max(times) < time.time() - changes.QUIET_S
            if not is_quiet or not changes.reach(self.root, read.run.path.stat()):
                return None
        except OSError:
            return None
        if seems_alive(read.run.leases) or home.is_locked(read.run.path):
            return None
        fields = {field: value for field, value in row.to_dict().items() if field != "path"}
        return Entry(folders[name], mine, read.files, fields)


def side_by_side(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results for all items, in their order; where the disk is slow, several are worked on at the same time."""
    wall, busy = time.perf_counter(), time.thread_time()
    first = [function(item) for item in items[:_FIRST]]
    waited = (time.perf_counter() - wall) - (time.thread_time() - busy)
    if waited < _FIRST * _SLOW_S:
        return [*first, *(function(item) for item in items[_FIRST:])]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [*first, *pool.map(function, items[_FIRST:])]


def _folders(root: Path) -> dict[str, int]:
    """The folders directly under ``root`` and their inodes; `_LINK` for links, about whose targets marks say nothing.

    Hidden ones are runs that are being made or removed.
    """
    try:
        with os.scandir(root) as entries:
            return {
                entry.name: _LINK if entry.is_symlink() else entry.inode()
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir()
            }
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _tokens(root: Path) -> Mapping[str, tuple[str, ...]] | None:
    try:
        return changes.tokens(root)
    except OSError:
        return None


def _created(run: RunFolder) -> float | None:
    return run.identity().get("created", 0.0) if run.exists else None


def _read(run: RunFolder) -> _Read | None:
    """The state of a run's files and its jobs; None if it is not a run."""
    if not run.exists:
        return None
    try:
        inner = sorted(os.listdir(run.evals))
    except OSError:
        inner = []
    names = [*_FILES, *(f"evals/{name}{file}" for name in inner for file in ("", "/jobs.jsonl"))]
    # First, so that a row is never older than what is remembered of its files.
    files = _status_of(run.path, names)
    try:
        jobs = tuple(survey.jobs_of(run))
    except Exception:  # What is wrong with one run does not hide the others; its row says what it is.
        jobs = ()
    return _Read(run, files, jobs)


def _status_of(folder: Path, names: Iterable[str]) -> dict[str, list[int] | None]:
    """Inode, size and time of the last change of files in a folder; None for those that are not there."""
    return {name: _stat(f"{folder}/{name}") for name in names}


def _stat(path: str) -> list[int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def _ask(read: Sequence[_Read], max_age_s: float) -> Answers:
    jobs = [job for it in read for job, is_settled in it.jobs if not is_settled]
    settled = [job for it in read for job, is_settled in it.jobs if is_settled]
    return survey.ask(jobs, settled, max_age_s=max_age_s)


def _has_live_jobs(read: _Read, answers: Answers) -> bool:
    return any(answers.may_live(job, is_settled) for job, is_settled in read.jobs)
