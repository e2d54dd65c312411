"""Sharded work as its folder shows it: what is asked, what is there, what is missing, and computing that.

request.json      what is asked (`Request`)
jobs.jsonl        the ledger: which tasks were started, crashed or were cancelled

Its rows lie where `ShardedWork.rows` says, chunk by chunk (`rows`). A shard is a share of the chunks: a task computes
those that are not there, and the task that finds all of them makes the result. Loads no torch or numpy until it
computes.
"""

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cld_core.errors import CldError, NotFoundError
from cld_core.files import retried
from cld_core.run.work import Work

from .request import Request
from .rows import Arrays, DamagedRowsError, Rows

if TYPE_CHECKING:
    from cld_core.ranks import Ranks

# Seconds for which a disk may fail before the task ends, as by a crash, and is started again elsewhere or later.
PATIENCE_S = 120.0
Lengths = Mapping[str, Mapping[int, int]]


class Computer(ABC):
    """Computes rows of one kind."""

    def prepare(self) -> None:
        """Fail before the first row if something that is needed is gone.

        Raises:
            CldError: something is gone or has changed.
        """
        return

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
    """One folder of sharded work.

    Attributes:
        request_type: the class of `request`.

    Raises:
        NotFoundError: the folder has no request, or one that another version of cldctl wrote.
    """

    request_type: ClassVar[type[Request]]
    request: Request

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.request = self.request_type.load(folder)

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

    def complete(self) -> frozenset[int]:
        """The shards all of whose rows are there."""
        return frozenset(range(self.request.shards)).difference(self.missing())

    def begun(self) -> frozenset[int]:
        """The shards some of whose rows are there."""
        lengths, request = self._seen(), self.request
        return frozenset(
            shard
            for shard in range(request.shards)
            if any(lengths[kind].get(number) for kind, chunks in request.chunks(shard).items() for number in chunks)
        )

    def to_start(self) -> list[int]:
        """The shards that tasks are to be started for: those missing, or the first one, whose task merges.

        Empty if the work is done.
        """
        return [] if self.is_done else self.missing() or [0]

    def rows_done(self) -> tuple[int, int]:
        """How many rows are computed, and how many there are in all."""
        sizes = self.request.sizes
        total = sum(sizes.values())
        if self.is_done:
            return total, total
        lengths = self._seen()
        return sum(
            min(length, self.request.wanted(kind, number)) for kind in sizes for number, length in lengths[kind].items()
        ), total

    def moved_at(self) -> float | None:
        """When a row of it, or of work that shares rows with it, was last written; None before the first."""
        times = []
        for kind in self.request.sizes:
            try:
                times.append(self.rows(kind).folder.stat().st_mtime)
            except (OSError, NotFoundError):
                continue
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
            return {kind: {} for kind in self.request.sizes}

    def _lacking(self, lengths: Lengths) -> list[int]:
        """The shards of which a row is not there."""
        request = self.request
        return [
            shard
            for shard in range(request.shards)
            if any(
                lengths[kind].get(number, 0) < request.wanted(kind, number)
                for kind, chunks in request.chunks(shard).items()
                for number in chunks
            )
        ]

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


@dataclass(frozen=True)
class _Label:
    """What a line of progress tells of: so many rows ``before`` those of a chunk, and in ``total``."""

    what: str
    before: int
    total: int


class Task:
    """Some work while a process computes it.

    Attributes:
        computers: by kind of rows.

    Raises:
        CldError: as `ShardedWork.computers`, or what rows are made of changed meanwhile.
    """

    def __init__(self, work: ShardedWork, device: Any, should_stop: Callable[[], bool]) -> None:
        self.work, self._should_stop = work, should_stop
        self._rows = self._places()
        for rows in self._rows.values():
            # Others see that something is being computed, though the first batch may take long.
            rows.folder.mkdir(parents=True, exist_ok=True)
            os.utime(rows.folder)
        self.computers = work.computers(device)
        if self._places() != self._rows:
            raise CldError(f"{work.folder}: what it is made of was replaced. Re-run the same `{work.command}`.")
        for computer in self.computers.values():
            computer.prepare()
        self._digests: dict[str, list[str]] = {}

    def fill(self, shard: int) -> None:
        """Compute what is missing of a shard."""
        request = self.work.request
        for kind, chunks in request.chunks(shard).items():
            lengths = retried(self._rows[kind].lengths, PATIENCE_S, stop=self._should_stop)
            total, before = sum(request.wanted(kind, number) for number in chunks), 0
            for number in chunks:
                label = _Label(f"shard {shard} of {request.shards}: {kind}", before, total)
                self._fill(kind, number, lengths.get(number, 0), label)
                before += request.wanted(kind, number)

    def parts(self, kind: str) -> Iterator[Arrays]:
        """All rows of a kind, chunk after chunk. A chunk that is damaged is computed again."""
        self._digests[kind] = digests = []
        n, lengths = self.work.request.sizes[kind], self._rows[kind].lengths()
        for number in range(-(-n // self._rows[kind].chunk)):
            first, last = self._rows[kind].bounds(number, n)
            while True:
                label = _Label(f"{kind} of chunk {number}", 0, last - first)
                length = self._fill(kind, number, lengths.get(number, 0), label)
                try:
                    arrays, digest = self._rows[kind].load(number, length)
                    break
                except DamagedRowsError as error:
                    if self.work.is_done:
                        raise _StoppedError from error  # Whoever finished it has removed the rows.
                    print(f"damaged, and computed again: {error}", flush=True)
                    self._rows[kind].remove(number, length)
                    lengths = self._rows[kind].lengths()
            digests.append(digest[:16])
            yield {name: values[: last - first] for name, values in arrays.items()}

    def made_of(self) -> dict[str, dict[str, Any]]:
        """For a report: the rows of each kind whose `parts` were read, and the digests of their chunks."""
        return {
            kind: {"id": self._rows[kind].folder.name, "chunk": self._rows[kind].chunk, "digests": digests}
            for kind, digests in self._digests.items()
        }

    def _places(self) -> dict[str, Rows]:
        return {kind: self.work.rows(kind) for kind in self.work.request.sizes}

    def _fill(self, kind: str, number: int, length: int, label: "_Label") -> int:
        """Compute the rest of a chunk, of which so many rows are there; returns how many there are now."""
        rows, computer = self._rows[kind], self.computers[kind]
        first, last = rows.bounds(number, self.work.request.sizes[kind])
        if length >= last - first:
            return length
        known = self._known(rows, number, length) if length else None
        if known is not None:
            computer.review(known)
        at_once = min(self.work.request.batch_size, rows.chunk)
        while (done := 0 if known is None else _length(known)) < last - first:
            if self._should_stop():
                raise _StoppedError
            begin = first + done
            new = computer.compute(begin, min(begin + at_once, last))
            known = new if known is None else joined([known, new])
            self._save(rows, number, known, done)
            print(f"{label.what} {label.before + _length(known)}/{label.total}", flush=True)
            computer.review(new)
        return last - first

    def _known(self, rows: Rows, number: int, length: int) -> Arrays | None:
        try:
            return retried(lambda: rows.load(number, length), PATIENCE_S, stop=self._should_stop)[0]
        except DamagedRowsError as error:
            print(f"damaged, and computed again: {error}", flush=True)
            rows.remove(number, length)
            return None

    def _save(self, rows: Rows, number: int, arrays: Arrays, before: int) -> None:
        try:
            retried(lambda: rows.save(number, arrays, before), PATIENCE_S, stop=self._should_stop)
        except OSError as error:
            if self._should_stop():
                raise _StoppedError from error
            raise


def _length(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))


def joined(parts: Iterable[Arrays]) -> Arrays:
    """Rows one after another."""
    import numpy as np

    kept = list(parts)
    return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
