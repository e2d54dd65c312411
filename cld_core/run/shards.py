"""Sharded work on rows that are functions of their index, by tasks that may be interrupted.

Division into shards and completeness are here; computing, resuming and merging in
`cld_core.computation`. A kind of work defines its rows; this module knows no metric. A folder of
work has

    request.json      the request (`ShardedRequest`)
    jobs.jsonl        the ledger: tasks that were started, crashed or were cancelled

Rows are kept in the folder `ShardedWork.rows`, which is named after their content, in chunks of the
same bounds for all work:

    ROWS/000003-000128.npz      128 rows of chunk 3; if a chunk has 128 rows, those of 384 to 511

A row is a function of its index, so any task may compute it, for any work, and more than once. A
chunk is written under another name and renamed: two tasks that compute the same one waste work and
damage nothing. It grows while it is computed: a file with more of its rows replaces the one with
fewer. The last chunk of some work may end early, and is continued by work that has more rows. A
shard is a share of the chunks: a task computes those that are missing, and the task that finds all
of them makes the result.

Loads no torch, and numpy only to read rows.
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
from cld_core.records import record

from .folder import names_in
from .work import MAX_SHARDS, Request, RequestedWork

if TYPE_CHECKING:
    import numpy as np

_FILE = re.compile(r"([0-9]{6,9})-([0-9]{6})\.npz")

# Rows, by the name of a column.
Columns = dict[str, "np.ndarray"]
Lengths = Mapping[str, Mapping[int, int]]


@record
class ShardedRequest(Request):
    """A request for rows, and how they are divided.

    Attributes:
        files: paths on this machine, by purpose. Their content is part of the id, their place is
            not.
    """

    files: dict[str, str | None]

    def chunk(self, kind: str) -> int:
        """The number of rows of a kind in a file, a constant of the format: works share files."""
        return CHUNK

    def _chunk_counts(self) -> dict[str, int]:
        """By kind of rows, the number of chunks."""
        return {kind: -(-size // self.chunk(kind)) for kind, size in self.sizes.items()}

    def chunks(self, shard: int) -> dict[str, range]:
        """By kind of rows, the chunks that are a shard's share; kinds without any are left out."""
        shares = {
            kind: range(*share(count, shard, self.shards))
            for kind, count in self._chunk_counts().items()
        }
        return {kind: chunks for kind, chunks in shares.items() if chunks}

    def bounds(self, kind: str, number: int) -> tuple[int, int]:
        """The rows ``first <= i < last`` of a chunk."""
        chunk = self.chunk(kind)
        return number * chunk, min((number + 1) * chunk, self.sizes[kind])

    def in_shards(self, shards: int) -> Self:
        """The same request in ``shards`` shards, at most one for each chunk.

        Raises:
            UsageError: there are more than `MAX_SHARDS`.
        """
        if shards > MAX_SHARDS:
            raise UsageError(
                f"--shards {shards}: work is divided into at most {MAX_SHARDS:,}, since each is a "
                "task of the cluster, and files in the run. "
                "Ask for fewer; more tasks than Slurm takes share shards anyway."
            )
        return replace(self, shards=min(shards, max(self._chunk_counts().values())))


def share(n: int, part: int, parts: int) -> tuple[int, int]:
    """The items ``first <= i < last`` of n that belong to one of ``parts`` parts.

    Parts are contiguous, and their sizes differ by at most one item. If there are more parts than
    items, some parts are empty: first equals last.
    """
    assert 0 <= part < parts, f"part {part} of {parts}"
    return n * part // parts, n * (part + 1) // parts


def count_of(arrays: Columns) -> int:
    """The number of rows."""
    return len(next(iter(arrays.values())))


class DamagedRowsError(CldError):
    """A chunk is gone, or its file has changed since it was written."""


@dataclass(frozen=True)
class Rows:
    """Rows of one kind in a folder, ``chunk`` of them in each file."""

    folder: Path
    chunk: int

    def lengths(self) -> dict[int, int]:
        """The number of rows of each chunk that exist, by the number of the chunk.

        Raises:
            OSError: it cannot be listed at this moment.
        """
        lengths: dict[int, int] = {}
        for name in names_in(self.folder):
            if match := _FILE.fullmatch(name):
                number = int(match[1])
                lengths[number] = max(int(match[2]), lengths.get(number, 0))
        return lengths

    def file(self, number: int, length: int) -> Path:
        """The file of the first ``length`` rows of a chunk."""
        return self.folder / f"{number:06d}-{length:06d}.npz"

    def save(self, number: int, arrays: Columns, before: int = 0) -> None:
        """Store the first rows of a chunk, arrays (length, ...).

        Args:
            before: the number of these rows that are stored already; their file is removed.

        Raises:
            OSError: they cannot be written at this moment.
        """
        length = count_of(arrays)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays(self.file(number, length), arrays)
        if 0 < before < length:
            # A file that cannot be removed only takes space.
            with contextlib.suppress(OSError):
                self.file(number, before).unlink()

    def load(self, number: int, length: int) -> tuple[Columns, str]:
        """The first ``length`` rows of a chunk, and the SHA-256 of their file.

        Raises:
            DamagedRowsError: it is gone, or has changed since it was written.
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
    """Sharded work on rows that do not depend on each other, unlike the rows of a tuning."""

    request: ShardedRequest

    @abstractmethod
    def rows(self, kind: str) -> Rows:
        """The stored rows of a kind.

        Raises:
            NotFoundError: their source, such as the checkpoint, is gone.
        """

    def missing(self) -> list[int]:
        return [] if self.is_done else self.lacking(self._seen())

    def begun(self) -> frozenset[int]:
        """The shards with at least one row."""
        return frozenset(
            shard for shard, (done, _) in enumerate(self._rows_of_shards(self._seen())) if done
        )

    def rows_stored(self) -> int:
        return sum(done for done, _ in self._rows_of_shards(self._seen()))

    def moved_at(self) -> float | None:
        """When a row was last written, by this or other work; None before the first."""
        times = []
        for kind in self.request.sizes:
            # Rows of a kind that have no folder yet, or whose source is gone, have no time.
            with contextlib.suppress(OSError, NotFoundError):
                times.append(self.rows(kind).folder.stat().st_mtime)
        return max(times, default=None)

    def lengths(self) -> Lengths:
        """By kind, the number of rows of each chunk that exist, by the number of the chunk.

        Raises:
            NotFoundError: the source of the rows, such as the checkpoint, is gone.
            OSError: they cannot be listed at this moment.
        """
        return {kind: self.rows(kind).lengths() for kind in self.request.sizes}

    def _seen(self) -> Lengths:
        """The `lengths` for displays; empty if the rows cannot be listed."""
        try:
            return self.lengths()
        except (OSError, NotFoundError):
            return {}

    def _rows_of_shards(self, lengths: Lengths) -> Iterator[tuple[int, int]]:
        """For each shard, the number of its rows that exist, and their total."""
        for shard in range(self.request.shards):
            done = 0
            total = 0
            for kind, chunks in self.request.chunks(shard).items():
                stored = lengths.get(kind, {})
                for number in chunks:
                    first, last = self.request.bounds(kind, number)
                    done += min(stored.get(number, 0), last - first)
                    total += last - first
            yield done, total

    def lacking(self, lengths: Lengths) -> list[int]:
        """The shards that lack a row."""
        counts = enumerate(self._rows_of_shards(lengths))
        return [shard for shard, (done, total) in counts if done < total]
