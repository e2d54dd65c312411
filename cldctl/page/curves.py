"""What a run wrote for TensorBoard: scalars against the step."""

import bisect
import contextlib
import logging
import math
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cld_core.run import RunFolder

# What the loss of a training is called there.
LOSS = "train/loss"
# Bytes of one run that are read in one look, and of one record: those of a scalar are much smaller.
_LOOK_BYTES, _RECORD_BYTES = 2**20, 2**14
# A record of TensorBoard: its length, a checksum of that, the content, a checksum of that.
_HEAD, _TAIL = struct.Struct("<QI"), 4
Points = list[tuple[int, float]]


def is_inside(run: RunFolder, folder: Path, *, follow: bool) -> bool:
    """Whether a page may show what is in a folder: it is part of the run, and no link leads out of it.

    Args:
        follow: any folder may be shown, as somebody wants who keeps parts of a run on another disk.
    """
    try:
        return follow or folder.resolve().is_relative_to(run.path.resolve())
    except (OSError, RuntimeError):  # A link that leads to itself.
        return False


def read(run: RunFolder, *, follow: bool = False) -> dict[str, Points]:
    """The finite values of each tag, ascending in the step; of a subfolder, with its name before the tag.

    Where an attempt repeats steps of an earlier one, the later one counts. A folder with an event file that is not a
    regular file is left out.
    """
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    # It complains of repeated steps and of the ends of files that are being written.
    logging.getLogger("tensorboard").setLevel(logging.CRITICAL)
    found: dict[str, Points] = {}
    files = [*run.tensorboard.glob("*tfevents*"), *run.tensorboard.glob("*/*tfevents*")]
    for folder in sorted({file.parent for file in files if is_inside(run, file.parent, follow=follow)}):
        if not all(file.is_file() for file in folder.glob("*tfevents*")):
            continue
        events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
        # A damaged file ends where it is damaged.
        with contextlib.suppress(Exception):
            events.Reload()
        prefix = "" if folder == run.tensorboard else f"{folder.name}: "
        for tag in events.Tags()[SCALARS]:
            points = {event.step: event.value for event in events.Scalars(tag) if math.isfinite(event.value)}
            found[prefix + tag] = sorted(points.items())
    return found


@dataclass
class Curve:
    """The loss of a run as TensorBoard's files have it; each look reads on from where the last one ended.

    `read` reads everything. This skips pictures, and each look has a limit, so that a screen can look every second.

    Attributes:
        shown: the losses in the order of the steps.
    """

    shown: Sequence[float] = ()
    _file: str = ""
    _offset: int = 0
    _steps: list[int] = field(default_factory=list)
    _losses: list[float] = field(default_factory=list)

    def look(self, run: RunFolder) -> bool:
        """Read what is new; whether there is more, for the next look.

        Raises:
            OSError
        """
        left = _LOOK_BYTES
        for file in _event_files(run):
            if file < self._file:
                continue
            if file > self._file:
                self._file, self._offset = file, 0
            left -= self._read(left)
            if left <= 0:
                break
        if left < _LOOK_BYTES:
            self.shown = tuple(self._losses)
        return left <= 0

    def _read(self, most: int) -> int:
        """Read the records of the file that are whole; returns the bytes that were read."""
        size, count = os.stat(self._file).st_size, 0
        with open(self._file, "rb") as stream:
            while count < most and self._offset + _HEAD.size <= size:
                stream.seek(self._offset)
                length = _HEAD.unpack(stream.read(_HEAD.size))[0]
                after = self._offset + _HEAD.size + length + _TAIL
                if after > size:
                    break
                # What is larger is a picture.
                record = stream.read(length) if length <= _RECORD_BYTES else b""
                count += _HEAD.size + len(record)
                # Where the record after one that is damaged begins is unknown.
                self._offset = after if self._add(record) else size
        return count

    def _add(self, record: bytes) -> bool:
        """Add what a record says; whether it is one."""
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        try:
            event = Event.FromString(record)
        except DecodeError:
            return False
        if event.session_log.status == SessionLog.START:
            # An attempt takes over from those before it.
            place = bisect.bisect_left(self._steps, event.step)
            del self._steps[place:], self._losses[place:]
        for value in event.summary.value:
            if value.tag == LOSS and math.isfinite(value.simple_value):
                self._steps.append(event.step)
                self._losses.append(value.simple_value)
        return True


def _event_files(run: RunFolder) -> list[str]:
    """The files of the training itself, not of its evaluations, in the order in which they were begun."""
    try:
        with os.scandir(run.tensorboard) as entries:
            return sorted(entry.path for entry in entries if "tfevents" in entry.name and entry.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return []
