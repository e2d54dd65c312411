"""The runs of a folder, without reading again those that are over and have not changed.

What is remembered is a cache, a file that may be deleted at any time; whatever is wrong with it, it counts as empty.
docs/architecture.md, "Index", says why its rows are right. Where the next check of remembered rows begins is in a
file beside it.
"""

import contextlib
import functools
import hashlib
import json
import os
import stat
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import cld_core.evaluate
import cld_core.run
import cldctl.runs
from cld_core.files import MAX_BYTES, opened, read_bytes, replacing
from cld_core.ownership import problem_of
from cld_core.run import RunFolder, change_marks
from cld_core.run.events import JobRef
from cld_core.run.folder import is_name
from cld_core.run.history import History
from cld_core.run.lease import seems_alive
from cld_core.version import __version__
from cldctl import config

from . import home, survey
from .state import OVER
from .status import RunStatus, status_or_reason
from .survey import Answers
from .works import Works, works_of

# For so many seconds remembered rows are compared with their files, each time; on a local disk, all of them are.
CHECK_S = 0.3
# What a row is made of, besides `run.json`, the ledger, the evaluations and the tunings.
_FILES = ("progress.json", "checkpoints", "evals")
_LINK = -1
# Inode, size and time of the last change of files by name; None for those that are not there.
Files = Mapping[str, Sequence[int] | None]
# As many runs are compared at least: about five calls of the file system for each.
AT_LEAST = 20
_LONGEST_NAME = 1000
T = TypeVar("T")
R = TypeVar("R")
_THREADS = 16
# They are used if each of the first few items made this process wait so many seconds; on a local disk, they cost more.
SLOW_S = 0.001
_FIRST = 4
FORMAT = 1
# A row that other code has made is not used: these packages make them.
_MADE_BY = (cld_core.evaluate, cld_core.run, cldctl.runs)


@dataclass(frozen=True)
class Entry:
    """A run as it was seen.

    Attributes:
        inode: of its folder, and ``tokens``, of the marks that it had (`cld_core.run.change_marks`).
        files: inode, size and time of what the row was made of, by name; None for what was not there.
        row: the fields of its `RunStatus`, except for the path.
    """

    inode: int
    tokens: tuple[str, ...]
    files: Mapping[str, Sequence[int] | None]
    row: Mapping[str, Any]


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
    """A run whose files are read: how they were just before, its evaluations and tunings, and its jobs.

    Attributes:
        works: None if the evaluations and tunings cannot be read.
        jobs: each with whether its end is known.
    """

    run: RunFolder
    files: Files
    works: Works | None
    jobs: tuple[tuple[JobRef, bool], ...]


class Index:
    """The runs of one folder. Each question reads those that may have changed since the one before.

    Args:
        root: the folder of the runs.
        fresh: forget what was remembered, and read everything.
    """

    def __init__(self, root: Path, *, fresh: bool = False) -> None:
        self.root = root.absolute()
        self._file = _file_for(self.root)
        self._entries = {} if fresh or self._file is None else _load(self._file)
        self._rotation = Rotation(self.root, self._file)

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
        others = [name for name in folders if name not in self._entries]
        found = side_by_side(lambda name: _read(self.root, name), others)
        closed = {name: reason for name, reason in zip(others, found, strict=True) if isinstance(reason, str)}
        read = [it for it in found if isinstance(it, _Read)]
        answers = _ask(read, max_age_s)
        rows = side_by_side(lambda it: status_or_reason(it.run, answers, it.works), read)
        new = side_by_side(
            lambda it: self._entry(*it, folders, tokens or {}, answers), list(zip(read, rows, strict=True))
        )
        if tokens is not None:
            self._entries |= {it.run.name: entry for it, entry in zip(read, new, strict=True) if entry is not None}
        if self._file is not None and (any(new) or len(self._entries) != known):
            _save(self._file, self._entries)
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
        for name in self._rotation.different(self._entries, check_s) if check_s > 0 else ():
            del self._entries[name]

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
        if not is_over or read.works is None or _has_live_jobs(read, answers):
            return None
        if folders[name] == _LINK or not is_name(name):
            return None
        mine = tokens.get(name, ())
        try:
            times = [
                change_marks.newest_mark(self.root, name, mine),
                *(it[2] / 1e9 for it in read.files.values() if it),
            ]
            is_quiet = max(times) < time.time() - change_marks.QUIET_S
            if not is_quiet or not change_marks.reach(self.root, read.run.path.stat()):
                return None
        except OSError:
            return None
        if seems_alive(read.run.leases) or home.is_locked(read.run.path):
            return None
        fields = {field: value for field, value in row.to_dict().items() if field != "path"}
        return Entry(folders[name], mine, read.files, fields)


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
        return change_marks.tokens(root)
    except OSError:
        return None


def _created(run: RunFolder) -> float | None:
    return run.identity().get("created", 0.0) if run.exists else None


def _read(root: Path, name: str) -> _Read | str | None:
    """The state of a run's files and its jobs; a text if this user may not look, None if it is not a run."""
    run = Glance(root / name)
    identity = None
    try:
        identity = run.identity_file.lstat()
    except FileNotFoundError:
        pass
    except (NotADirectoryError, ValueError):
        return None
    except OSError as error:
        return error.strerror or str(error)
    if (identity is None or stat.S_ISDIR(identity.st_mode)) and not run.exists:
        return None
    # First, so that a row is never older than what is remembered of its files.
    seen = None if identity is None else as_seen(identity)
    files = {"run.json": seen, "attempts.jsonl": None, **files_of(run.path, _FILES)}
    folders = [f"evals/{it}" for it in sorted(run.evaluation_names())]
    # Few runs have tunings, and a new one is announced: a check does not look for them where there are none.
    folders += [f"tuned/{it}" for it in run.tuning_names()]
    files |= files_of(run.path, [f"{it}{file}" for it in folders for file in ("", "/jobs.jsonl")])
    try:
        works, history = works_of(run), History()
        with contextlib.suppress(FileNotFoundError):
            ledger = run.ledger.path.lstat()
            files["attempts.jsonl"] = as_seen(ledger)
            history = run.ledger.history(ledger)
        return _Read(run, files, works, tuple(survey.jobs_of(run, works, history)))
    except Exception:  # What is wrong with one run does not hide the others; its row says what it is.
        return _Read(run, files, None, ())


def _ask(read: Sequence[_Read], max_age_s: float) -> Answers:
    jobs = [job for it in read for job, is_settled in it.jobs if not is_settled]
    settled = [job for it in read for job, is_settled in it.jobs if is_settled]
    return survey.ask(jobs, settled, max_age_s=max_age_s)


def _has_live_jobs(read: _Read, answers: Answers) -> bool:
    return any(answers.may_live(job, is_settled) for job, is_settled in read.jobs)


class Glance(RunFolder):
    """A run folder that remembers its identity and what evaluations and tunings it has; for one answer, not longer.

    Progress, ledgers and results are read when they are asked for: they have to be newer than what clusters say.
    """

    def identity(self) -> dict[str, Any]:
        return self._identity

    def evaluation_names(self) -> list[str]:
        return self._evaluation_names

    def tuning_names(self) -> list[str]:
        return self._tuning_names

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        return super().identity()

    @functools.cached_property
    def _evaluation_names(self) -> list[str]:
        return super().evaluation_names()

    @functools.cached_property
    def _tuning_names(self) -> list[str]:
        return super().tuning_names()


def files_of(folder: Path, names: Iterable[str]) -> dict[str, Sequence[int] | None]:
    """How files in a folder are now."""
    return {name: _file(f"{folder}/{name}") for name in names}


def as_seen(status: os.stat_result) -> list[int]:
    """What is remembered of a file."""
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _file(path: str) -> list[int] | None:
    try:
        return as_seen(os.lstat(path))
    except OSError:
        return None


class Rotation:
    """Compares the remembered runs of one folder with their files, each look where the one before ended.

    Args:
        root: the folder of the runs.
        index: the file of its index; None if this user has no cache.
    """

    def __init__(self, root: Path, index: Path | None) -> None:
        self._root = root
        self._file = None if index is None else index.with_suffix(".next")
        self._last: str | None = None

    def different(self, entries: Mapping[str, Entry], for_s: float) -> list[str]:
        """Those of the runs that were compared whose files are not as they were.

        Args:
            for_s: go on for so many seconds, or until all were compared. On a slow disk, `AT_LEAST` runs are enough.
        """
        names = sorted(entries)
        begin = bisect_right(names, self._before())
        turn, count, different = names[begin:] + names[:begin], 0, []
        until = time.monotonic() + for_s
        while count < len(turn):
            some, begun = turn[count : count + AT_LEAST], time.monotonic()
            now = side_by_side(lambda name: files_of(self._root / name, entries[name].files), some)
            different += [name for name, files in zip(some, now, strict=True) if files != entries[name].files]
            count += len(some)
            ended = time.monotonic()
            if ended > until or ended - begun > len(some) * SLOW_S:
                break
        if 0 < count < len(turn):
            self._remember(turn[count - 1])
        return different

    def _before(self) -> str:
        """The run that was compared last; empty if nobody knows."""
        if self._last is None and self._file is not None:
            with contextlib.suppress(OSError):
                self._last = read_bytes(self._file, limit=_LONGEST_NAME).decode(errors="surrogateescape")
        return self._last or ""

    def _remember(self, name: str) -> None:
        self._last = name
        if self._file is not None:
            with contextlib.suppress(OSError), replacing(self._file) as stream:
                stream.write(name.encode(errors="surrogateescape"))


def side_by_side(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results for all items, in their order; where the disk is slow, several are worked on at the same time."""
    wall, busy = time.perf_counter(), time.thread_time()
    first = [function(item) for item in items[:_FIRST]]
    waited = (time.perf_counter() - wall) - (time.thread_time() - busy)
    if waited < _FIRST * SLOW_S:
        return [*first, *(function(item) for item in items[_FIRST:])]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [*first, *pool.map(function, items[_FIRST:])]


def _file_for(root: Path) -> Path | None:
    """The file of the index of the runs under ``root``; None if this user has no cache."""
    folder = config.cache_folder()
    with contextlib.suppress(OSError, RuntimeError):
        name = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
        return None if folder is None else folder / f"runs-{name}.json"
    return None


def _load(file: Path) -> dict[str, Entry]:
    """The entries of a file by name of the run; none if it is missing, damaged, not this user's or of other code."""
    try:
        with opened(file) as stream:
            if problem_of(os.fstat(stream.fileno())) is not None:
                return {}
            header, _, content = stream.read(MAX_BYTES).partition(b"\n")
        if header.decode() != _header(content):
            return {}
        return {
            name: Entry(inode, tuple(tokens), files, row)
            for name, (inode, tokens, files, row) in json.loads(content).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _save(file: Path, entries: Mapping[str, Entry]) -> None:
    """Replace a file. That it cannot be written harms nobody."""
    plain = {name: [it.inode, it.tokens, it.files, it.row] for name, it in entries.items()}
    content = json.dumps(plain, separators=(",", ":")).encode()
    with contextlib.suppress(OSError), replacing(file) as stream:
        stream.write(_header(content).encode() + b"\n" + content)


def _header(content: bytes) -> str:
    """The first line: what the rest is, and by which code."""
    folders = tuple(folder for package in _MADE_BY for folder in package.__path__)
    made_by = [__version__, *map(_modules_in, folders), *(entry.name for entry in fields(RunStatus))]
    code = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()
    return f"cldctl index {FORMAT} {code[:16]} {hashlib.sha256(content).hexdigest()}"


@functools.cache
def _modules_in(folder: str) -> list[list[str | int]]:
    """Name, size and time of the last change of the modules in a folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".py")]
        return sorted([name, status.st_size, status.st_mtime_ns] for name, status in found)
    return []
