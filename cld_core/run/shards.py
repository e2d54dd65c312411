"""Sharded work: rows that are a function of their index, computed in pieces by tasks that may be
interrupted.

The module knows no metric. A kind of work says which rows there are; division into shards and
completeness are here, computing, resuming and merging in `cld_core.tasks`. A folder of work has

    request.json      what is asked (`ShardedRequest`)
    jobs.jsonl        the ledger: which tasks were started, crashed or were cancelled

Rows are kept where `ShardedWork.rows` says, in a folder named after what they are, in chunks that
everybody cuts alike:

    ROWS/000003-000128.npz      128 rows of chunk 3; if a chunk has 128 rows, those of 384 to 511

A row is a function of its index, so it does not matter who computes it, for which work, or how
often. A chunk is written under another name and renamed, which is why two tasks that compute the
same one waste work and spoil nothing. It grows while it is computed: a file with more of its rows
takes the place of the one with fewer. The last chunk of some work may end early, and is continued
by work that has more rows. A shard is a share of the chunks: a task computes those that are not
there, and the task that finds all of them makes the result.

Loads no torch, and numpy only for what is in the rows.
"""

import contextlib
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cld_core.errors import CldError, NotFoundError, UsageError
from cld_core.files import NO_FILE, write_arrays
from cld_core.metrics import CHUNK

from .folder import names_in
from .work import MAX_SHARDS, Request, RequestedWork

if TYPE_CHECKING:
    import numpy as np

_FILE = re.compile(r"([0-9]{6,9})-([0-9]{6})\.npz")

Arrays = dict[str, "np.ndarray"]
Lengths = Mapping[str, Mapping[int, int]]


@dataclass(frozen=True, kw_only=True)
class ShardedRequest(Request):
    """A request for rows, and how they are divided.

    Attributes:
        files: where things lie on this machine. Their content is part of the id, their place is
            not.
    """

    files: dict[str, str | None]

    def chunk(self, kind: str) -> int:
        """How many rows of a kind are kept in a file: a constant of the format, so that all work
        shares the files."""
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
            raise UsageError(
                f"{text}, {why}. Ask for fewer; more tasks than Slurm takes share shards anyway."
            )
        return replace(
            self,
            shards=min(
                shards, max(-(-size // self.chunk(kind)) for kind, size in self.sizes.items())
            ),
        )


def share(n: int, part: int, parts: int) -> tuple[int, int]:
    """First and last-plus-one of the items of one part. Shares are contiguous and differ by at most
    one item.

    Where there are more parts than items, some shares are empty (first equals last).
    """
    assert 0 <= part < parts, f"part {part} of {parts}"
    return n * part // parts, n * (part + 1) // parts


def count_of(arrays: Arrays) -> int:
    """How many rows these are."""
    return len(next(iter(arrays.values())))


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
        found: dict[int, int] = {}
        for name in names_in(self.folder):
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
        length = count_of(arrays)
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


class ShardedWork(RequestedWork):
    """One folder of sharded work."""

    request: ShardedRequest

    @abstractmethod
    def rows(self, kind: str) -> Rows:
        """Where rows of a kind are kept.

        Raises:
            NotFoundError: what they are made of is gone.
        """

    def missing(self) -> list[int]:
        """The shards that are not complete; none if the work is done."""
        return [] if self.is_done else self.lacking(self._seen())

    def begun(self) -> frozenset[int]:
        """The shards some of whose rows are there."""
        return frozenset(
            shard for shard, (done, _) in enumerate(self._rows_of_shards(self._seen())) if done
        )

    def to_start(self) -> list[int]:
        """The shards that tasks are to be started for: those missing, or the first one, whose task
        merges.

        Empty if the work is done.
        """
        return [] if self.is_done else self.missing() or [0]

    def rows_done(self) -> tuple[int, int]:
        """How many rows are computed, and how many there are in all."""
        total = sum(self.request.sizes.values())
        return (
            total if self.is_done else sum(done for done, _ in self._rows_of_shards(self._seen()))
        ), total

    def moved_at(self) -> float | None:
        """When a row of it, or of work that shares rows with it, was last written; None before the
        first."""
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

    def lacking(self, lengths: Lengths) -> list[int]:
        """The shards of which a row is not there."""
        return [
            shard
            for shard, (done, total) in enumerate(self._rows_of_shards(lengths))
            if done < total
        ]
