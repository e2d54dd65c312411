"""Sharded work: rows that are a function of their index, computed in pieces by tasks that may be interrupted.

The module knows no metric. A kind of work says which rows there are, how they are computed and what becomes of them;
division into shards, completeness, resuming and merging are here. A folder of work has

    request.json      what is asked (`ShardedRequest`)
    jobs.jsonl        the ledger: which tasks were started, crashed or were cancelled

Rows are kept where `ShardedWork.rows` says, in a folder named after what they are, in chunks that everybody cuts alike:

    ROWS/000003-000128.npz      128 rows of chunk 3; if a chunk has 128 rows, those of 384 to 511

A row is a function of its index, so it does not matter who computes it, for which work, or how often. A chunk is
written under another name and renamed, which is why two tasks that compute the same one waste work and spoil nothing.
It grows while it is computed: a file with more of its rows takes the place of the one with fewer. The last chunk of
some work may end early, and is continued by work that has more rows. A shard is a share of the chunks: a task computes
those that are not there, and the task that finds all of them makes the result.

Loads no torch or numpy until something is computed.
"""

import contextlib
import functools
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cld_core.errors import CldError, NotFoundError, UsageError
from cld_core.files import NO_FILE, retried, write_arrays
from cld_core.ranges import CHUNK, share
from cld_core.run.work import MAX_SHARDS, Request, Work

if TYPE_CHECKING:
    import numpy as np

    from cld_core.ranks import Ranks

# Seconds for which a disk may fail before the task ends, as by a crash, and is started again elsewhere or later.
PATIENCE_S = 120.0
_FILE = re.compile(r"([0-9]{6,9})-([0-9]{6})\.npz")

Arrays = dict[str, "np.ndarray"]
Lengths = Mapping[str, Mapping[int, int]]


@dataclass(frozen=True, kw_only=True)
class ShardedRequest(Request):
    """A request for rows, and how they are divided.

    Attributes:
        files: where things lie on this machine. Their content is part of the id, their place is not.
    """

    files: dict[str, str | None]

    def chunk(self, kind: str) -> int:
        """How many rows of a kind are kept in a file: a constant of the format, so that all work shares the files."""
        return CHUNK

    def chunks(self, shard: int) -> dict[str, range]:
        """By kind of rows, the chunks that are a shard's share; kinds without any are left out."""
        numbers = {kind: -(-size // self.chunk(kind)) for kind, size in self.sizes.items()}
        shares = {kind: range(*share(count, shard, self.shards)) for kind, count in numbers.items()}
        return {kind: chunks for kind, chunks in shares.items() if chunks}

    def bounds(self, kind: str, number: int) -> tuple[int, int]:
        """The rows ``first <= i < last`` of a chunk."""
        chunk = self.chunk(kind)
        return number * chunk, min((number + 1) * chunk, self.sizes[kind])

    def in_shards(self, shards: int) -> Self:
        """The same request in so many shards, or in as many as it has chunks.

        Raises:
            UsageError: there are more than work is divided into.
        """
        if shards > MAX_SHARDS:
            text = f"--shards {shards}: work is divided into at most {MAX_SHARDS:,}"
            why = "since each is a task of the cluster, and files in the run"
            raise UsageError(f"{text}, {why}. Ask for fewer; more tasks than Slurm takes share shards anyway.")
        return replace(self, shards=min(shards, max(-(-size // self.chunk(kind)) for kind, size in self.sizes.items())))


class DamagedRowsError(CldError):
    """A chunk is gone, or its file is not what was written."""


@dataclass(frozen=True)
class Rows:
    """Rows of one kind in a folder, ``chunk`` of them in each file."""

    folder: Path
    chunk: int

    def lengths(self) -> dict[int, int]:
        """How many rows of each chunk are there, by its number, from one look into the folder.

        Raises:
            OSError: it cannot be listed at this moment.
        """
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        found: dict[int, int] = {}
        for name in names:
            if match := _FILE.fullmatch(name):
                number, length = int(match[1]), int(match[2])
                found[number] = max(length, found.get(number, 0))
        return found

    def file(self, number: int, length: int) -> Path:
        """Where so many rows of a chunk are."""
        return self.folder / f"{number:06d}-{length:06d}.npz"

    def save(self, number: int, arrays: Arrays, before: int = 0) -> None:
        """Keep the first rows of a chunk, arrays (length, ...).

        Args:
            before: how many of these rows are there already; their file is removed.

        Raises:
            OSError: they cannot be written at this moment.
        """
        length = _length(arrays)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays(self.file(number, length), arrays)
        if 0 < before < length:
            # One that cannot be removed stays, and is in nobody's way but that of the disk.
            with contextlib.suppress(OSError):
                self.file(number, before).unlink()

    def load(self, number: int, length: int) -> tuple[Arrays, str]:
        """The rows of a chunk in the file that has so many, and the SHA-256 of the file.

        Raises:
            DamagedRowsError: it is gone, or not what was written.
            OSError: it cannot be read at this moment.
        """
        from cld_core import npz

        file = self.file(number, length)
        try:
            arrays, digest = npz.load(file)
        except npz.DamagedError as error:
            raise DamagedRowsError(f"{file}: {error}") from error
        except OSError as error:
            if error.errno in NO_FILE:
                raise DamagedRowsError(f"{file}: {error.strerror}") from error
            raise
        if not arrays or any(values.shape[:1] != (length,) for values in arrays.values()):
            raise DamagedRowsError(f"{file}: it does not have {length} rows")
        return arrays, digest


class Computer(ABC):
    """Computes rows of one kind."""

    @abstractmethod
    def compute(self, first: int, last: int) -> Arrays:
        """The rows ``first <= i < last``, arrays (last - first, ...); each row is a function of i, not of the range."""

    def review(self, rows: Arrays) -> None:
        """Look at rows that are saved, each once, before further ones are computed.

        Raises:
            CldError: they make the others pointless.
        """
        return


class ShardedWork(Work):
    """One folder of sharded work."""

    request: ShardedRequest

    @abstractmethod
    def rows(self, kind: str) -> Rows:
        """Where rows of a kind are kept.

        Raises:
            NotFoundError: what they are made of is gone.
        """

    @abstractmethod
    def computers(self, device: Any) -> Mapping[str, Computer]:
        """By kind of rows, what computes them on a `torch.device`. Loads torch.

        Raises:
            CldError: something that is needed is gone or damaged.
        """

    @abstractmethod
    def finish(self, task: "Task") -> None:
        """Make the product of all rows. Doing it twice, even at the same time, changes nothing.

        Raises:
            CldError: the rows cannot be used, or something has changed.
        """

    def missing(self) -> list[int]:
        """The shards that are not complete; none if the work is done."""
        return [] if self.is_done else self._lacking(self._seen())

    def begun(self) -> frozenset[int]:
        """The shards some of whose rows are there."""
        return frozenset(shard for shard, (done, _) in enumerate(self._rows_of_shards(self._seen())) if done)

    def to_start(self) -> list[int]:
        """The shards that tasks are to be started for: those missing, or the first one, whose task merges.

        Empty if the work is done.
        """
        return [] if self.is_done else self.missing() or [0]

    def rows_done(self) -> tuple[int, int]:
        """How many rows are computed, and how many there are in all."""
        total = sum(self.request.sizes.values())
        return (total if self.is_done else sum(done for done, _ in self._rows_of_shards(self._seen()))), total

    def moved_at(self) -> float | None:
        """When a row of it, or of work that shares rows with it, was last written; None before the first."""
        times = []
        for kind in self.request.sizes:
            with contextlib.suppress(OSError, NotFoundError):
                times.append(self.rows(kind).folder.stat().st_mtime)
        return max(times, default=None)

    def lengths(self) -> Lengths:
        """By kind, how many rows of each chunk are there, by its number.

        Raises:
            NotFoundError: what they are made of is gone.
            OSError: nobody knows at this moment.
        """
        return {kind: self.rows(kind).lengths() for kind in self.request.sizes}

    def _seen(self) -> Lengths:
        """As `lengths`, for looking: what cannot be seen is not there."""
        try:
            return self.lengths()
        except (OSError, NotFoundError):
            return {}

    def _rows_of_shards(self, lengths: Lengths) -> Iterator[tuple[int, int]]:
        """Shard after shard, how many of its rows are there, and how many it has."""
        for shard in range(self.request.shards):
            done = total = 0
            for kind, chunks in self.request.chunks(shard).items():
                found = lengths.get(kind, {})
                for number in chunks:
                    first, last = self.request.bounds(kind, number)
                    done += min(found.get(number, 0), last - first)
                    total += last - first
            yield done, total

    def _lacking(self, lengths: Lengths) -> list[int]:
        """The shards of which a row is not there."""
        return [shard for shard, (done, total) in enumerate(self._rows_of_shards(lengths)) if done < total]

    def compute(
        self,
        ranks: "Ranks",
        should_stop: Callable[[], bool] = lambda: False,
        only: Collection[int] | None = None,
    ) -> bool:
        """Compute the missing ones of this process's shards; loads torch.

        The process that finds all shards complete makes the product.

        Args:
            ranks: without ``only``, rank r of n takes the shards r, r + n, r + 2 n, ...
            should_stop: asked before every batch.
            only: the shards of this process.

        Returns:
            False if it was asked to stop before its share was done.

        Raises:
            CldError: what is needed is gone or has changed, or the result cannot be made.
        """
        if self.is_done:
            return True
        mine = range(ranks.rank, self.request.shards, ranks.world_size) if only is None else only
        patient = functools.partial(retried, within_s=PATIENCE_S, stop=should_stop)
        missing = self._lacking(patient(self.lengths))
        if missing and not set(missing).intersection(mine):
            return True
        task = patient(lambda: Task(self, ranks.device, should_stop))
        try:
            for shard in sorted(set(missing).intersection(mine)):
                task.fill(shard)
            if not self._lacking(patient(self.lengths)):
                patient(lambda: self.finish(task))
        except _StoppedError:
            return self.is_done
        return True


class _StoppedError(Exception):
    """The task was asked to stop, or the work was finished by another one."""


class Task:
    """Some work while a process computes it.

    Attributes:
        computers: by kind of rows.
        made_of: for a report: the rows of each kind whose `parts` were read, and the digests of their chunks.

    Raises:
        CldError: as `ShardedWork.computers`, or what rows are made of changed meanwhile.
    """

    def __init__(self, work: ShardedWork, device: Any, should_stop: Callable[[], bool]) -> None:
        self.work, self._should_stop = work, should_stop
        self._patient = functools.partial(retried, within_s=PATIENCE_S, stop=should_stop)
        self._rows = self._places()
        for rows in self._rows.values():
            # Others see that something is being computed, though the first batch may take long.
            rows.folder.mkdir(parents=True, exist_ok=True)
            os.utime(rows.folder)
        self.computers = work.computers(device)
        if self._places() != self._rows:
            raise CldError(f"{work.folder}: what it is made of was replaced. Re-run the same `{work.command}`.")
        self.made_of: dict[str, dict[str, Any]] = {}

    def fill(self, shard: int) -> None:
        """Compute what is missing of a shard."""
        for kind, chunks in self.work.request.chunks(shard).items():
            until = self.work.request.bounds(kind, chunks[-1])[1]
            for number in chunks:
                # Other work may have computed it meanwhile.
                lengths = self._patient(self._rows[kind].lengths)
                self._fill(kind, number, lengths.get(number, 0), until)

    def parts(self, kind: str) -> Iterator[Arrays]:
        """All rows of a kind, chunk after chunk. A chunk that is damaged is computed again."""
        rows, request, digests = self._rows[kind], self.work.request, list[str]()
        self.made_of[kind] = {"id": rows.folder.name, "chunk": rows.chunk, "digests": digests}
        lengths = rows.lengths()
        for number in range(-(-request.sizes[kind] // rows.chunk)):
            first, last = request.bounds(kind, number)
            while True:
                length = self._fill(kind, number, lengths.get(number, 0), last)
                if (found := self._load(rows, number, length)) is not None:
                    break
                lengths = rows.lengths()
            arrays, digest = found
            digests.append(digest[:16])
            yield {name: values[: last - first] for name, values in arrays.items()}

    def _places(self) -> dict[str, Rows]:
        return {kind: self.work.rows(kind) for kind in self.work.request.sizes}

    def _fill(self, kind: str, number: int, length: int, until: int) -> int:
        """Compute the rest of a chunk, of which so many rows are there; returns how many there are now.

        Args:
            until: the last row plus one of all that are computed now, for messages.
        """
        rows, computer = self._rows[kind], self.computers[kind]
        first, last = self.work.request.bounds(kind, number)
        if length >= last - first:
            return length
        found = self._load(rows, number, length) if length else None
        known = None if found is None else found[0]
        if known is not None:
            computer.review(known)
        at_once = min(self.work.request.batch_size, rows.chunk)
        while (done := 0 if known is None else _length(known)) < last - first:
            if self._should_stop():
                raise _StoppedError
            new = computer.compute(first + done, min(first + done + at_once, last))
            known = new if known is None else joined([known, new])
            try:
                self._patient(functools.partial(rows.save, number, known, done))
            except OSError as error:
                if self._should_stop():
                    raise _StoppedError from error
                raise
            print(f"{kind}: row {first + _length(known)} of {until}", flush=True)
            computer.review(new)
        return last - first

    def _load(self, rows: Rows, number: int, length: int) -> tuple[Arrays, str] | None:
        """The rows of a chunk and the digest of their file; None if it is damaged, and so removed."""
        try:
            return self._patient(lambda: rows.load(number, length))
        except DamagedRowsError as error:
            if self.work.is_done:
                raise _StoppedError from error  # Whoever finished it has removed the rows.
            print(f"damaged, and computed again: {error}", flush=True)
            # Not as those that a longer file has replaced: what stays would be found again, for ever.
            self._patient(lambda: rows.file(number, length).unlink(missing_ok=True))
            return None


def _length(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))


def joined(parts: Iterable[Arrays]) -> Arrays:
    """Rows one after another."""
    import numpy as np

    kept = list(parts)
    return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
