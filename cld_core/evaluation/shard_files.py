"""A shard on the disk: rows that grow batch by batch, and a state file that never promises more than is there.

shards/00003.json              what it is a shard of, and how far each kind of its work is
shards/00003-features.rows     rows of work that is under way, one batch after another
shards/00003-features.npz      what is kept of work that is done
"""

import contextlib
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from cld_core.run.atomic import read_json, write_arrays, write_json

Arrays = dict[str, np.ndarray]
Bounds = Mapping[str, tuple[int, int]]


class Shard:
    """One shard, as far as it is computed.

    Args:
        folder: the folder of all shards.
        number: which one.
        bounds: for each kind of work, the first and last-plus-one index of its samples or data.
        made_of: what its numbers come from: request and checkpoint. A shard of others is begun anew.
    """

    def __init__(self, folder: Path, number: int, bounds: Bounds, made_of: Mapping[str, str]) -> None:
        self._folder, self._number, self._made_of = folder, number, dict(made_of)
        there = read_json(state_file(folder, number)) or {}
        kept = there.get("work", {}) if _is_made_of(there, made_of) else {}
        self._work = {name: self._resumed(name, kept.get(name), bound) for name, bound in bounds.items()}

    def done(self, work: str) -> int:
        """Rows that are there."""
        return int(self._work[work]["done"])

    def is_sealed(self, work: str) -> bool:
        return "bytes" in self._work[work]

    def fill(
        self,
        work: str,
        batch_size: int,
        compute: Callable[[int, int], Arrays],
        condense: Callable[[Arrays], Arrays],
        should_stop: Callable[[], bool],
        told: str,
    ) -> bool:
        """Compute what is missing in batches, each saved, and seal it; False where it was asked to stop before.

        Args:
            compute: rows of a range of indices.
            condense: what of all rows is kept.
            told: begins the lines of progress.
        """
        first, last = self._work[work]["first"], self._work[work]["last"]
        while not self.is_sealed(work) and (done := self.done(work)) < last - first:
            if should_stop():
                return False
            size = min(batch_size, last - first - done)
            self.append(work, compute(first + done, first + done + size))
            print(f"{told}: {work} {done + size}/{last - first}", flush=True)
        if not self.is_sealed(work):
            self.seal(work, condense)
        return True

    def append(self, work: str, rows: Arrays) -> None:
        """Add rows, arrays of one length and of the same fields every time, and force them to the disk."""
        state = self._work[work]
        state["fields"] = [[name, values.dtype.str, list(values.shape[1:])] for name, values in rows.items()]
        kind = _row_type(state)
        table = np.empty(len(next(iter(rows.values()))), kind)
        for name, values in rows.items():
            table[name] = values
        raw = table.tobytes()
        with self._rows_file(work).open("r+b" if state["done"] else "wb") as file:
            # What an interrupted batch left behind the promised rows goes.
            file.truncate(state["done"] * kind.itemsize)
            file.seek(0, os.SEEK_END)
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        state["done"] += len(table)
        state["crc"] = zlib.crc32(raw, state["crc"])
        self._write()

    def seal(self, work: str, condense: Callable[[Arrays], Arrays]) -> None:
        """Keep what ``condense`` makes of all rows, in the place of them."""
        state = self._work[work]
        table = np.fromfile(self._rows_file(work), _row_type(state), state["done"])
        assert table.dtype.names is not None, "a row has fields"
        self.keep(work, condense({name: table[name] for name in table.dtype.names}))

    def keep(self, work: str, arrays: Arrays) -> None:
        """Seal work with what is to be kept of all its rows."""
        state, path = self._work[work], self._sealed_file(work)
        write_arrays(path, arrays)
        state["done"], state["bytes"] = state["last"] - state["first"], path.stat().st_size
        self._write()
        self._rows_file(work).unlink(missing_ok=True)

    def _resumed(self, work: str, state: dict[str, Any] | None, bounds: tuple[int, int]) -> dict[str, Any]:
        fresh = {"first": bounds[0], "last": bounds[1], "done": 0, "crc": 0}
        if state is None or (state["first"], state["last"]) != bounds:
            return fresh
        if "bytes" in state:
            return state if _has_size(self._sealed_file(work), state["bytes"]) else fresh
        if state["done"] == 0:
            return fresh
        size = state["done"] * _row_type(state).itemsize
        with contextlib.suppress(OSError), self._rows_file(work).open("rb") as file:
            crc = 0
            while size and (block := file.read(min(size, 1 << 24))):
                crc, size = zlib.crc32(block, crc), size - len(block)
            if not size and crc == state["crc"]:
                return state
        # What cannot be read is computed again.
        return fresh

    def _write(self) -> None:
        complete = all("bytes" in state for state in self._work.values())
        write_json(state_file(self._folder, self._number), {**self._made_of, "complete": complete, "work": self._work})

    def _rows_file(self, work: str) -> Path:
        return self._folder / f"{self._number:05d}-{work}.rows"

    def _sealed_file(self, work: str) -> Path:
        return sealed_file(self._folder, self._number, work)


def state_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.json"


def sealed_file(folder: Path, number: int, work: str) -> Path:
    return folder / f"{number:05d}-{work}.npz"


def is_complete(folder: Path, number: int, made_of: Mapping[str, str]) -> bool:
    """Whether all of a shard is there, made of just that; and what `Shard` would go on with."""
    state = read_json(state_file(folder, number)) or {}
    if not state.get("complete") or not _is_made_of(state, made_of):
        return False
    work = state["work"].items()
    return all(_has_size(sealed_file(folder, number, name), part["bytes"]) for name, part in work)


def load(folder: Path, number: int, work: str) -> Arrays | None:
    """What was kept of complete work; None where it cannot be read, and then the shard counts as not begun."""
    try:
        with np.load(sealed_file(folder, number, work), allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, KeyError, BadZipFile, zlib.error):
        state_file(folder, number).unlink(missing_ok=True)
        return None


def _is_made_of(state: Mapping[str, Any], made_of: Mapping[str, str]) -> bool:
    return all(state.get(name) == value for name, value in made_of.items())


def _row_type(state: Mapping[str, Any]) -> np.dtype:
    return np.dtype([(name, kind, tuple(shape)) for name, kind, shape in state["fields"]])


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
