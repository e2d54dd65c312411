"""The runs of a folder, without reading again those that are over and have not changed.

What is remembered is a cache, a file that may be deleted at any time; whatever is wrong with it, it
counts as empty. Each look compares every remembered row with the files that it was made of.
"""

import contextlib
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cld_core
import cldctl
from cld_core.files import MAX_BYTES, opened, replacing
from cld_core.ownership import problem_of
from cld_core.run import RunFolder
from cld_core.run.events import JobRef
from cld_core.run.folder import is_name
from cld_core.run.lease import seems_alive
from cld_core.run.state import OVER, is_locked
from cld_core.run.work import RequestedWork, works_of
from cld_core.version import __version__
from cldctl import config

from . import survey
from .status import RunStatus, status_or_reason
from .survey import Answers

# What a row is made of, beside the work that has stopped. A finished evaluation or tuning does not
# change; asking for more of it changes `evals` or `tuned`.
_FILES = ("run.json", "attempts.jsonl", "progress.json", "checkpoints", "evals", "tuned")
# A file that changed less than this many seconds before it was read may change again without
# another time.
QUIET_S = 5.0
# A job that is gone may return to the queue within this many seconds, unless the files say that the
# run has ended for good.
UNSURE_S = 600.0
_LINK = -1
T = TypeVar("T")
R = TypeVar("R")
# If the disk takes this many seconds for each of the first items, threads read the others.
_FIRST = 4
_SLOW_S = 0.001
_THREADS = 64
# A row that other code has made is not used: the modules in these folders make them.
_MADE_BY = {cld_core: ("", "run"), cldctl: ("jobs", "runs")}
# Inode, size and time of the last change of each file; None for those that are not there.
Files = Mapping[str, Sequence[int] | None]


@dataclass(frozen=True)
class IndexedRun:
    """A run in the index: the inode of its folder, its files, and the fields of its `RunStatus`
    without the path."""

    inode: int
    files: Files
    row: Mapping[str, Any]


@dataclass(frozen=True)
class RunListing:
    """The runs in a folder.

    Attributes:
        rows: the row of each run, oldest first.
        answers: what the clusters said about the runs that had to be read.
        closed: why this user cannot see whether a folder is a run, by name of the folder.
    """

    rows: list[RunStatus] = field(default_factory=list)
    answers: Answers = field(default_factory=lambda: Answers({}))
    closed: dict[str, str] = field(default_factory=dict)

    @property
    def remarks(self) -> list[str]:
        """Messages about old or missing answers of clusters, and about folders that are closed."""
        closed = [f"{name}: {reason}" for name, reason in self.closed.items()]
        return [*filter(None, [self.answers.remark]), *closed]


@dataclass(frozen=True)
class _Reading:
    """A run whose files are read: when and how they were just before, and its evaluations, tunings
    and jobs.

    Attributes:
        works: None if the evaluations and tunings cannot be read.
        jobs: each with whether its end is known.
    """

    run: RunFolder
    time: float
    files: dict[str, Sequence[int] | None]
    works: Sequence[RequestedWork] | None
    jobs: tuple[tuple[JobRef, bool], ...]


class Index:
    """The runs of one folder. Each question reads those that have changed since the one before.

    Args:
        root: the folder of the runs.
        fresh: forget what was remembered, and read everything.
    """

    def __init__(self, root: Path, *, fresh: bool = False) -> None:
        self.root = root.absolute()
        self._file = _file_for(self.root)
        self._entries = {} if fresh or self._file is None else _load(self._file)

    def look(self, *, max_age_s: float = 0.0) -> RunListing:
        """The status of every run.

        Args:
            max_age_s: an answer of a cluster of this age, in seconds, is good enough.
        """
        folders = _folders(self.root)
        before = len(self._entries)
        self._forget_changed(folders)
        rows = [
            RunStatus(**entry.row, path=str(self.root / name))
            for name, entry in self._entries.items()
        ]
        runs = [RunFolder(self.root / name) for name in folders if name not in self._entries]
        results = concurrent_map(_read, runs)
        readings = [result for result in results if isinstance(result, _Reading)]
        closed = {
            run.name: result
            for run, result in zip(runs, results, strict=True)
            if isinstance(result, str)
        }
        jobs = [job for reading in readings for job in reading.jobs]
        answers = survey.ask_about(jobs, max_age_s=max_age_s)
        entries = {}
        for row, entry in concurrent_map(
            lambda reading: _row(reading, answers, folders[reading.run.name]), readings
        ):
            rows.append(row)
            if entry is not None:
                entries[row.name] = entry
        self._entries |= entries
        if self._file is not None and (entries or len(self._entries) != before):
            _save(self._file, self._entries)
        rows.sort(key=lambda row: (row.created or 0.0, row.name))
        return RunListing(rows, answers, dict(sorted(closed.items())))

    def unfinished(self) -> list[RunFolder]:
        """The runs that are not known to be finished."""
        folders = _folders(self.root)
        self._forget_changed(folders)
        done = {name for name, entry in self._entries.items() if entry.row["state"] == "FINISHED"}
        runs = [RunFolder(self.root / name) for name in folders if name not in done]
        exist = concurrent_map(lambda run: run.exists, runs)
        return list(itertools.compress(runs, exist))

    def newest(self) -> RunFolder | None:
        """The run that was made last; None without runs."""

        def age(folder: tuple[str, int]) -> tuple[float, str] | None:
            name, inode = folder
            run = RunFolder(self.root / name)
            entry = self._entries.get(name)
            if entry is not None and entry.inode == inode:
                return entry.row["created"] or 0.0, name
            return (run.identity().get("created", 0.0), name) if run.exists else None

        ages = concurrent_map(age, list(_folders(self.root).items()))
        last = max(filter(None, ages), default=None)
        return None if last is None else RunFolder(self.root / last[1])

    def _forget_changed(self, folders: Mapping[str, int]) -> None:
        """Forget runs that are gone, were replaced, or whose files have changed."""
        names = [name for name, entry in self._entries.items() if folders.get(name) == entry.inode]
        root = str(self.root)

        def is_same(name: str) -> bool:
            files = self._entries[name].files
            return files_of(f"{root}/{name}", files) == files

        same = itertools.compress(names, concurrent_map(is_same, names))
        self._entries = {name: self._entries[name] for name in same}


def _folders(root: Path) -> dict[str, int]:
    """The folders directly under ``root`` and their inodes; `_LINK` for links, whose targets may be
    replaced.

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


def _read(run: RunFolder) -> _Reading | str | None:
    """The state of a run's files and its jobs; a text if this user may not look, None if it is not
    a run."""
    if (reason := run.unreadable) is not None:
        return reason
    if not run.exists:
        return None
    # First, so that a row is never older than what is remembered of its files.
    now = time.time()
    files = files_of(str(run.path), _FILES)
    try:
        works = works_of(run)
        return _Reading(run, now, files, works, tuple(survey.jobs_of(run, works)))
    except Exception:
        # A damaged run does not hide the others; its row says what is wrong.
        return _Reading(run, now, files, None, ())


def _row(reading: _Reading, answers: Answers, inode: int) -> tuple[RunStatus, IndexedRun | None]:
    """The row of a run, and its entry; None if the row may change without its files."""
    run = reading.run
    row = status_or_reason(run, answers, reading.works)
    is_over = row.is_readable and row.state in OVER and not row.is_evaluating
    is_known = (
        reading.works is not None
        and not answers.is_stale(row.cluster)
        and inode != _LINK
        and is_name(run.name)
    )
    if not (is_over and is_known) or any(answers.may_live(*job) for job in reading.jobs):
        return row, None
    stopped = [f"evals/{entry['id']}" for entry in row.evals if entry["state"] != "FINISHED"]
    stopped += [f"tuned/{entry['id']}" for entry in row.tunings if entry["state"] != "FINISHED"]
    # Read after the row, but a file that has changed since is not quiet.
    more = [f"{work}{file}" for work in stopped for file in ("", "/jobs.jsonl")]
    if stopped:
        # Their rows, and the weights that these are computed from.
        more += ["evals/rows", "averages"]
    files = reading.files | files_of(str(run.path), more)
    # A finished run does not continue automatically, whatever its cluster does.
    least_s = UNSURE_S if stopped or row.state != "FINISHED" else QUIET_S
    newest = max(file[2] for file in files.values() if file)
    is_quiet = newest < (reading.time - least_s) * 1e9
    if not is_quiet or seems_alive(run.leases) or is_locked(run.path):
        return row, None
    fields = row.to_dict()
    del fields["path"]
    return row, IndexedRun(inode, files, fields)


def files_of(folder: str, names: Iterable[str]) -> dict[str, Sequence[int] | None]:
    """Inode, size and time of the last change of files of a run; None for missing ones."""
    by_name: dict[str, Sequence[int] | None] = {}
    for name in names:
        try:
            status = os.stat(f"{folder}/{name}")
            by_name[name] = [status.st_ino, status.st_size, status.st_mtime_ns]
        except OSError:
            by_name[name] = None
    return by_name


def concurrent_map(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results for all items, in their order; in threads if the disk is slow."""
    before = time.perf_counter() - time.thread_time()
    first = [function(item) for item in items[:_FIRST]]
    rest = items[_FIRST:]
    if time.perf_counter() - time.thread_time() - before < _FIRST * _SLOW_S:
        return [*first, *map(function, rest)]
    with ThreadPoolExecutor(_THREADS) as pool:
        # After Ctrl-C, the iterator cancels what has not begun.
        return [*first, *pool.map(function, rest)]


def _file_for(root: Path) -> Path | None:
    """The file of the index of the runs under ``root``; None if this user has no cache."""
    folder = config.cache_folder()
    with contextlib.suppress(OSError, RuntimeError):
        name = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
        return None if folder is None else folder / f"runs-{name}.json"
    return None


def _load(file: Path) -> dict[str, IndexedRun]:
    """The entries of a file by name of the run.

    None if the file is missing, damaged, not this user's, or written by other code.
    """
    try:
        with opened(file) as stream:
            if problem_of(os.fstat(stream.fileno())) is not None:
                return {}
            seal, _, content = stream.read(MAX_BYTES).partition(b"\n")
        if seal != _seal(content):
            return {}
        return {name: IndexedRun(*fields) for name, fields in json.loads(content).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _save(file: Path, entries: Mapping[str, IndexedRun]) -> None:
    """Replace a file, unless it cannot be written: the index is only a cache."""
    plain = {name: [entry.inode, entry.files, entry.row] for name, entry in entries.items()}
    content = json.dumps(plain, separators=(",", ":")).encode()
    with contextlib.suppress(OSError), replacing(file) as stream:
        stream.write(_seal(content) + b"\n" + content)


def _seal(content: bytes) -> bytes:
    """The first line of a file: a digest of the rest and of the code that made it."""
    modules = []
    for package, folders in _MADE_BY.items():
        for root, folder in itertools.product(package.__path__, folders):
            for file in Path(root, folder).glob("*.py"):
                status = file.stat()
                modules.append((file.name, status.st_size, status.st_mtime_ns))
    made_by = repr((__version__, sorted(modules))).encode()
    return hashlib.sha256(made_by + content).hexdigest().encode()
