"""The arrays of a shard: rows that grow batch by batch, and a state that never promises more than is there."""

import contextlib
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cld_core import npz
from cld_core.files import descriptor_for_writing, opened, retried, write_arrays, write_json

from . import state as states
from . import tally
from .state import Ranges

Arrays = dict[str, np.ndarray]
# Seconds for which a disk may fail before the task ends, as by a crash, and is started again elsewhere or later.
PATIENCE_S = 120.0


class Shard:
    """One shard, as far as it is computed.

    Args:
        folder: the folder of all shards.
        number: which one.
        ranges: by kind of rows, first and last-plus-one index.
        made_of: what its numbers come from. A shard that was made of something else is begun again.
    """

    def __init__(self, folder: Path, number: int, ranges: Ranges, made_of: Mapping[str, str]) -> None:
        self.number, self.ranges = number, ranges
        self._folder, self._made_of = folder, dict(made_of)
        state = states.read_state(folder, number)
        parts = state.get("work", {}) if states.is_made_of(state, made_of) else {}
        self._parts = {kind: self._resumed(kind, parts.get(kind), bounds) for kind, bounds in ranges.items()}
        unsealed = [kind for kind in ranges if not self.is_sealed(kind)]
        if unsealed and (state or any(states.sealed_file(folder, number, kind).exists() for kind in unsealed)):
            # It may have been complete before, of something else or with files that are damaged by now.
            retried(lambda: tally.unmark(folder, number), PATIENCE_S)

    def done(self, kind: str) -> int:
        """How many rows are there."""
        return int(self._parts[kind]["done"])

    def is_sealed(self, kind: str) -> bool:
        return "bytes" in self._parts[kind]

    def begin(self) -> None:
        """Let others see that the shard is being computed, though its first batch may take long."""
        if not any(self.done(kind) for kind in self.ranges):
            with contextlib.suppress(OSError):  # What computes it will notice, and wait.
                self._write()

    def fill(
        self,
        kind: str,
        batch_size: int,
        compute: Callable[[int, int], Arrays],
        review: Callable[[Arrays], None],
        condense: Callable[[Arrays], Arrays],
        should_stop: Callable[[], bool],
        label: str,
    ) -> bool:
        """Compute what is missing, save it batch by batch, and seal it. False if it was asked to stop before.

        Args:
            compute: the rows of a range of indices.
            review: sees all rows, once they are saved; what it raises ends the work.
            condense: what to keep of all rows.
            label: the beginning of each line of progress.
        """
        first, last = self.ranges[kind]
        if not self.is_sealed(kind) and self.done(kind):
            review(self._all_rows(kind))
        while not self.is_sealed(kind) and (done := self.done(kind)) < last - first:
            if should_stop():
                return False
            size = min(batch_size, last - first - done)
            rows = compute(first + done, first + done + size)
            try:
                self.append(kind, rows, should_stop)
            except OSError:
                if should_stop():
                    return False
                raise
            print(f"{label}: {kind} {done + size}/{last - first}", flush=True)
            review(rows)
        if not self.is_sealed(kind):
            self.keep(kind, condense(self._all_rows(kind)))
        return True

    def append(self, kind: str, rows: Arrays, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Add rows and force them to the disk: arrays of one length, of the same fields every time.

        Raises:
            OSError: the disk failed for `PATIENCE_S` seconds, or when the work was asked to stop.
            ValueError: these rows have other fields than those before them.
        """
        part = self._parts[kind]
        fields = [[name, values.dtype.str, list(values.shape[1:])] for name, values in rows.items()]
        if part["done"] and part["fields"] != fields:
            raise ValueError(f"rows of {kind} have the fields {part['fields']}, and now {fields}")
        part["fields"] = fields
        row = _row_type(part)
        table = np.empty(len(next(iter(rows.values()))), row)
        for name, values in rows.items():
            table[name] = values
        raw = table.tobytes()

        def write() -> None:
            with os.fdopen(descriptor_for_writing(self._rows_file(kind)), "r+b") as file:
                # An interrupted batch may have left something behind the rows that the state promises.
                file.truncate(part["done"] * row.itemsize)
                file.seek(0, os.SEEK_END)
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())

        retried(write, PATIENCE_S, stop=should_stop)
        part["done"] += len(table)
        part["crc"] = zlib.crc32(raw, part["crc"])
        retried(self._write, PATIENCE_S, stop=should_stop)

    def keep(self, kind: str, arrays: Arrays) -> None:
        """Seal rows with what is to be kept of them."""
        part, path = self._parts[kind], states.sealed_file(self._folder, self.number, kind)
        retried(lambda: write_arrays(path, arrays), PATIENCE_S)
        part["done"], part["bytes"] = part["last"] - part["first"], path.stat().st_size
        retried(self._write, PATIENCE_S)
        with contextlib.suppress(OSError):
            self._rows_file(kind).unlink()

    def _all_rows(self, kind: str) -> Arrays:
        part = self._parts[kind]
        with opened(self._rows_file(kind)) as file:
            table = np.fromfile(file, _row_type(part), part["done"])
        assert table.dtype.names is not None, "a row has fields"
        return {name: table[name] for name in table.dtype.names}

    def _resumed(self, kind: str, part: dict[str, Any] | None, bounds: tuple[int, int]) -> dict[str, Any]:
        """The part of the state that can be continued; what cannot be read is computed again."""
        fresh = {"first": bounds[0], "last": bounds[1], "done": 0, "crc": 0}
        if part is None or (part["first"], part["last"]) != bounds:
            return fresh
        if "bytes" in part:
            return part if states.is_sealed(self._folder, self.number, kind, part, bounds) else fresh
        if not 0 < part["done"] <= bounds[1] - bounds[0]:
            return fresh
        try:
            size = part["done"] * _row_type(part).itemsize
        except (KeyError, TypeError, ValueError):
            return fresh
        with contextlib.suppress(OSError), opened(self._rows_file(kind)) as file:
            crc = 0
            while size and (block := file.read(min(size, 1 << 24))):
                crc, size = zlib.crc32(block, crc), size - len(block)
            if not size and crc == part.get("crc"):
                return part
        return fresh

    def _write(self) -> None:
        write_json(states.state_file(self._folder, self.number), {**self._made_of, "work": self._parts})

    def _rows_file(self, kind: str) -> Path:
        return states.rows_file(self._folder, self.number, kind)


@dataclass(frozen=True)
class Sealed:
    """Sealed rows of one kind, ``first <= i < last``, in the shards' folder of some work."""

    folder: Path
    shard: int
    kind: str
    first: int
    last: int

    def load(self) -> Arrays | None:
        """What was kept; None if it cannot be read, and then the whole shard is computed again."""
        try:
            return npz.load(states.sealed_file(self.folder, self.shard, self.kind))
        except (OSError, npz.DamagedError):
            states.state_file(self.folder, self.shard).unlink(missing_ok=True)
            return None


def _row_type(part: Mapping[str, Any]) -> np.dtype:
    return np.dtype([(name, kind, tuple(shape)) for name, kind, shape in part["fields"]])
