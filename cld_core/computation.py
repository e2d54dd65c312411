"""Computes the missing rows of sharded work (`cld_core.run.shards`), and then its result.

A kind of work defines how its rows are computed, and the result of all rows; resuming and merging
are here. torch and numpy are loaded when rows are computed.
"""

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from cld_core.errors import CldError
from cld_core.files import retried
from cld_core.run.shards import Columns, DamagedRowsError, Rows, ShardedWork, count_of
from cld_core.run.work import Outcome, Start
from cld_core.stop import StopFlag, Stopped

if TYPE_CHECKING:
    from cld_core.ranks import Ranks

T = TypeVar("T")
# Seconds for which a disk may fail before the task crashes, and is restarted elsewhere or later.
PATIENCE_S = 120.0


def patiently(work: Callable[[], T], stop: StopFlag) -> T:
    """The result of ``work``, which is retried for `PATIENCE_S` (`files.retried`).

    Raises:
        Stopped: ``work`` raised an `OSError`, and this process has to stop.
    """
    try:
        return retried(work, PATIENCE_S, stop=lambda: stop.is_set)
    except OSError:
        stop.check()
        raise


class Computer(ABC):
    """Computes rows of one kind."""

    @abstractmethod
    def compute(self, first: int, last: int) -> Columns:
        """The rows ``first <= i < last``, arrays (last - first, ...); a row depends only on i."""

    def review(self, rows: Columns) -> None:
        """Check saved rows, each once, before further ones are computed.

        Raises:
            CldError: because of these rows, computing others is pointless.
        """
        return


class Computation(ABC):
    """A work while a process computes it.

    Attributes:
        computers: the computer of each kind of rows.
        made_of: for a report, where the rows that `parts` returned are stored, by kind, and the
            digests of their chunks.

    Raises:
        CldError: a file that rows depend on is gone or damaged, or changed while it was opened.
    """

    def __init__(self, work: ShardedWork, device: Any, stop: StopFlag) -> None:
        self.work = work
        self._stop = stop
        self._patiently = functools.partial(patiently, stop=stop)
        self._rows = self._places()
        for rows in self._rows.values():
            # Shows that rows are being computed, even if the first batch takes long.
            rows.folder.mkdir(parents=True, exist_ok=True)
            os.utime(rows.folder)
        self.computers = self.computers_on(device)
        if self._places() != self._rows:
            raise CldError(
                f"{work.folder}: what it is made of was replaced. Re-run the same `{work.command}`."
            )
        self.made_of: dict[str, dict[str, Any]] = {}

    @classmethod
    def compute(
        cls,
        work: ShardedWork,
        ranks: "Ranks",
        stop: StopFlag,
        only: Collection[int] | None,
        start: Start,
    ) -> Outcome:
        """Compute the missing rows of this process's shards; implements `Work.compute`.

        The process that finds all shards complete makes the result.

        Args:
            ranks: without ``only``, rank r of n takes the shards r, r + n, r + 2 n, ...
            only: the shards of this process.

        Raises:
            CldError: a file that is needed is gone or has changed, or the result cannot be made.
            Stopped: this process has to stop, or another one has finished the work.
        """
        if only is None:
            only = range(ranks.rank, work.request.shards, ranks.world_size)
        missing = work.lacking(patiently(work.lengths, stop))
        own = sorted(set(missing).intersection(only))
        if own or not missing:
            computation = patiently(lambda: cls(work, ranks.device, stop), stop)
            for shard in own:
                computation.fill_shard(shard)
            if not work.lacking(patiently(work.lengths, stop)):
                patiently(computation.finish, stop)
        return Outcome("finished")

    @abstractmethod
    def computers_on(self, device: Any) -> Mapping[str, Computer]:
        """The computer of each kind of rows, on a `torch.device`. Loads torch.

        Raises:
            CldError: a file that is needed is gone or damaged.
        """

    @abstractmethod
    def finish(self) -> None:
        """Make the result of all rows. Two processes may do it, even at the same time.

        Raises:
            CldError: the rows cannot be used, or a file that they depend on has changed.
        """

    def fill_shard(self, shard: int) -> None:
        """Compute the missing rows of a shard."""
        for kind, chunks in self.work.request.chunks(shard).items():
            until = self.work.request.bounds(kind, chunks[-1])[1]
            for number in chunks:
                # Another work may have computed it meanwhile.
                lengths = self._patiently(self._rows[kind].lengths)
                self._fill_chunk(kind, number, lengths.get(number, 0), until)

    def parts(self, kind: str) -> Iterator[Columns]:
        """All rows of a kind, chunk after chunk. A chunk that is damaged is computed again."""
        rows = self._rows[kind]
        request = self.work.request
        digests: list[str] = []
        self.made_of[kind] = {"id": rows.folder.name, "chunk": rows.chunk, "digests": digests}
        lengths = rows.lengths()
        for number in range(-(-request.sizes[kind] // rows.chunk)):
            first, last = request.bounds(kind, number)
            while True:
                length = self._fill_chunk(kind, number, lengths.get(number, 0), last)
                if (stored := self._load(rows, number, length)) is not None:
                    break
                lengths = rows.lengths()
            arrays, digest = stored
            digests.append(digest[:16])
            yield {name: values[: last - first] for name, values in arrays.items()}

    def _places(self) -> dict[str, Rows]:
        return {kind: self.work.rows(kind) for kind in self.work.request.sizes}

    def _fill_chunk(self, kind: str, number: int, length: int, until: int) -> int:
        """Compute the missing rows of a chunk; returns how many rows it has now.

        Args:
            length: the number of rows that are stored.
            until: the end of the range of rows that are being computed, for messages.
        """
        rows = self._rows[kind]
        computer = self.computers[kind]
        first, last = self.work.request.bounds(kind, number)
        if length >= last - first:
            return length
        parts: list[Columns] = []
        if length and (stored := self._load(rows, number, length)) is not None:
            parts.append(stored[0])
            computer.review(stored[0])
        at_once = min(self.work.request.batch_size, rows.chunk)
        while (done := sum(map(count_of, parts))) < last - first:
            self._stop.check()
            new = computer.compute(first + done, min(first + done + at_once, last))
            parts.append(new)
            self._patiently(functools.partial(rows.save, number, joined(parts), done))
            print(f"{kind}: row {first + done + count_of(new)} of {until}", flush=True)
            computer.review(new)
        return last - first

    def _load(self, rows: Rows, number: int, length: int) -> tuple[Columns, str] | None:
        """The rows of a chunk and the digest of their file; None if it is damaged and removed."""
        try:
            return self._patiently(lambda: rows.load(number, length))
        except DamagedRowsError as error:
            if self.work.is_done:
                raise Stopped from error  # The task that finished the work has removed its rows.
            print(f"damaged, and computed again: {error}", flush=True)
            # A damaged file that stays would be read again and again.
            self._patiently(lambda: rows.file(number, length).unlink(missing_ok=True))
            return None


def joined(parts: Iterable[Columns]) -> Columns:
    """Rows one after another."""
    import numpy as np

    kept = list(parts)
    return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
