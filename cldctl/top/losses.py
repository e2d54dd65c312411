"""The loss of runs as TensorBoard's files have it, read on from where the last look ended.

`cldctl.page.curves` reads everything, with the pictures. Here only what was appended is read, pictures are skipped
without reading them, and each look has a limit, so that a screen can look every second.
"""

import contextlib
import math
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from cld_core.run import RunFolder
from cld_core.small_files import opened
from cldctl.page.curves import LOSS

from .sparks import means

# Bytes of one run that are read in one look, and of one record: those of a scalar are much smaller.
LOOK_BYTES = 2**20
_RECORD_BYTES = 2**14
# Beyond this, the length of a record is damage.
_MOST_BYTES = 2**30
# The offset of a file that is damaged.
_NEVER = 2**62
# Points that are kept of a file; of more, two neighbours become one.
_POINTS = 1024
# Points of a curve: no terminal shows more.
_CURVE = 256
# Files of a run that are read, the newest: each attempt begins one.
_FILES = 64
# A record: its length, a checksum of that, the content, a checksum of that.
_HEAD, _TAIL = struct.Struct("<QI"), 4


@dataclass
class _File:
    """How far one file is read.

    Attributes:
        offset: of the first record that was not read, bytes.
        began: the time of its first record, seconds since 1970.
        first: the step at which it takes over from earlier files.
        points: steps and losses.
    """

    offset: int = 0
    began: float = math.inf
    first: float = math.inf
    points: list[tuple[int, float]] = field(default_factory=list)

    def add(self, step: int, loss: float) -> None:
        self.points.append((step, loss))
        if len(self.points) >= 2 * _POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=False)
            self.points = [(last, first_loss / 2 + last_loss / 2) for (_, first_loss), (last, last_loss) in pairs]


class Losses:
    """The losses of many runs."""

    def __init__(self) -> None:
        self._runs: dict[Path, dict[Path, _File]] = {}
        # What `of` returns, which other threads ask for.
        self._curves: dict[Path, list[float]] = {}

    def look(self, run: RunFolder, most: int = LOOK_BYTES) -> bool:
        """Read what a run has appended; whether there was more than ``most`` bytes of it."""
        files = self._runs.setdefault(run.path, {})
        left = most
        for path in _event_files(run):
            with contextlib.suppress(OSError), opened(path) as stream:
                left -= _read(stream, files.setdefault(path, _File()), left)
            if left <= 0:
                break
        if left < most:
            self._curves[run.path] = means(_joined(files.values()), _CURVE)
        return left <= 0

    def of(self, run: Path) -> list[float]:
        """The losses of a run, in the order of the steps; of many, the means of neighbours."""
        return self._curves.get(run, [])

    def forget_others(self, runs: set[Path]) -> None:
        """Forget all runs but these."""
        self._runs = {path: files for path, files in self._runs.items() if path in runs}
        self._curves = {path: curve for path, curve in self._curves.items() if path in runs}


def _joined(files: Iterable[_File]) -> list[float]:
    """The losses of several attempts; of steps that were repeated, those of the last one."""
    end = math.inf
    found: list[list[float]] = []
    for file in sorted(files, key=lambda it: it.began, reverse=True):
        found.append([loss for step, loss in file.points if step < end])
        end = min(end, file.first)
    return [loss for losses in reversed(found) for loss in losses]


def _event_files(run: RunFolder) -> list[Path]:
    """The files of the training itself, not of its evaluations; none if the folder leads out of the run."""
    try:
        with os.scandir(run.tensorboard) as entries:
            names = sorted(entry.name for entry in entries if "tfevents" in entry.name)
        if os.path.islink(run.tensorboard):
            return []
    except OSError:
        return []
    return [run.tensorboard / name for name in names[-_FILES:]]


def _read(stream: BufferedReader, file: _File, most: int) -> int:
    """Read the records that are whole; returns the bytes that were read."""
    size = os.fstat(stream.fileno()).st_size
    count = 0
    for offset, record in _records(stream, file.offset, size):
        file.offset = offset
        count += len(record) + _HEAD.size
        if record and not _take(record, file):
            # Where the next record begins is unknown from here on.
            file.offset = _NEVER
            break
        if count >= most:
            break
    return count


def _records(stream: BufferedReader, offset: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Where the next record begins, and the content of this one; empty if it is too large to be a scalar."""
    while offset + _HEAD.size <= size:
        stream.seek(offset)
        head = stream.read(_HEAD.size)
        # A file that has become shorter meanwhile is one whose record is not written yet.
        if len(head) < _HEAD.size:
            return
        (length, _) = _HEAD.unpack(head)
        after = offset + _HEAD.size + length + _TAIL
        if length > _MOST_BYTES or after > size:
            return
        record = stream.read(length) if length <= _RECORD_BYTES else b""
        if length <= _RECORD_BYTES and len(record) < length:
            return
        yield after, record
        offset = after


def _take(record: bytes, file: _File) -> bool:
    """Add what a record says; whether it is a record."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    try:
        event = Event.FromString(record)
    except DecodeError:
        return False
    file.began = min(file.began, event.wall_time)
    if event.session_log.status == SessionLog.START:
        file.first = min(file.first, event.step)
    for value in event.summary.value:
        if value.tag == LOSS and value.HasField("simple_value") and math.isfinite(value.simple_value):
            file.add(event.step, value.simple_value)
    return True
