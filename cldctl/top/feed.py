"""Two loops in the background: one asks what the runs are doing, the other reads the files of what is on the screen.

The first asks as `status --watch` does, and may have to wait for a scheduler; the second waits for nobody.
"""

import bisect
import math
import os
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cld_core.run import RunFolder
from cldctl.page.curves import LOSS
from cldctl.runs import selection, survey
from cldctl.runs.index import Index
from cldctl.runs.selection import Selection
from cldctl.runs.state import OVER
from cldctl.runs.status import RunStatus, said
from cldctl.runs.survey import Answers

from .detail import Detail, detail_of

# Seconds between two looks, as of `status --watch`.
EVERY_S = 1.0
# Bytes of one run that are read in one look, and of one record: those of a scalar are much smaller.
_LOOK_BYTES, _RECORD_BYTES = 2**20, 2**14
# A record of TensorBoard: its length, a checksum of that, the content, a checksum of that.
_HEAD, _TAIL = struct.Struct("<QI"), 4


@dataclass(frozen=True)
class Look:
    """What was seen in one look.

    Attributes:
        rows: that are listed, oldest first; of a look that failed, those of the one before.
        older: how many more ended over a week ago.
        remarks: what is worth knowing about the answers of clusters, and about folders that cannot be seen.
        problem: why nothing could be seen.
        found: all runs of the folder, those that are not listed, too.
    """

    rows: Sequence[RunStatus] = ()
    older: int = 0
    answers: Answers = field(default_factory=lambda: Answers({}))
    remarks: Sequence[str] = ()
    problem: str | None = None
    found: Sequence[RunStatus] = ()


class RunFeed:
    """Asks what the runs of a folder are doing.

    Args:
        which: the runs that are shown.
        everything: show those that ended long ago, too.
    """

    def __init__(self, root: Path, which: Selection, *, everything: bool) -> None:
        self.root = root
        self._which, self._everything = which, everything
        self._index: Index | None = None
        self._last = Look()
        # When the look that goes on has begun, by the monotonic clock; None between two.
        self.since: float | None = None

    def look(self) -> Look:
        """Ask once. It never raises."""
        self.since = time.monotonic()
        try:
            self._last = self._look()
        except Exception as error:
            self._last = replace(self._last, remarks=(), problem=f"{self.root}: {said(error)}")
        self.since = None
        return self._last

    def _look(self) -> Look:
        self._index = self._index or Index(self.root)
        found = self._index.look(max_age_s=survey.TO_LOOK_S)
        rows = shown = self._which.of(found.rows)
        if not self._everything and self._which.is_empty:
            shown = selection.recent(rows)
        closed = [f"{name}: {reason}" for name, reason in found.closed.items()]
        remark = [found.answers.remark] if found.answers.remark else []
        return Look(shown, len(rows) - len(shown), found.answers, [*remark, *closed], found=found.rows)

    def go_on(self, publish: Callable[[Look], object], wait: Callable[[float], bool]) -> None:
        """Look again and again.

        Args:
            wait: waits for so many seconds; returns whether to end.
        """
        while True:
            publish(self.look())
            if wait(EVERY_S):
                return


@dataclass
class Curve:
    """The loss of a run as TensorBoard's files have it; each look reads on from where the last one ended.

    `cldctl.page.curves` reads everything. This skips pictures, and each look has a limit, so that a screen can look
    every second.

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


class FileFeed:
    """Reads the files of what is on the screen: the loss of every run, everything about the selected one.

    Attributes:
        curves: by the path of a run.
        problem: why the last read failed.
    """

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.problem: str | None = None
        self._selected: RunStatus | None = None
        self._shown: Sequence[RunStatus] = ()
        self._answers = Answers({})
        self._changed = threading.Event()
        self._is_over = False
        # Of runs whose curve is complete, the state and step that it was read for.
        self._complete: dict[str, tuple[str, int]] = {}

    def losses(self, row: RunStatus) -> Sequence[float]:
        """What is known of the losses of a run."""
        curve = self.curves.get(row.path)
        return () if curve is None else curve.shown

    def want(self, selected: RunStatus | None, shown: Sequence[RunStatus], answers: Answers) -> None:
        """Read this from now on; if another run is selected, at once."""
        is_other = selected is not None and (self._selected is None or self._selected.path != selected.path)
        self._selected, self._shown, self._answers = selected, shown, answers
        if is_other:
            self._changed.set()

    def end(self) -> None:
        self._is_over = True
        self._changed.set()

    def read(self) -> Detail | None:
        """Read once; everything about the run that is selected."""
        selected, rows = self._selected, self._shown
        detail = None if selected is None else detail_of(selected, self._answers)
        rows = [*([selected] if selected is not None else []), *rows]
        curves = {row.path: self.curves.get(row.path) or Curve() for row in rows}
        for row in rows:
            if row.state in OVER and self._complete.get(row.path) == (row.state, row.step):
                continue
            if curves[row.path].look(RunFolder(row.path)):
                # There is more of it: the other runs come first.
                self._changed.set()
            else:
                self._complete[row.path] = row.state, row.step
        self.curves = curves
        self._complete = {path: seen for path, seen in self._complete.items() if path in curves}
        return detail

    def go_on(self, publish: Callable[[Detail | None], object]) -> None:
        """Read again and again, until `end`, whatever goes wrong: `problem` says what."""
        while not self._is_over:
            self._changed.clear()
            detail = None
            try:
                detail, self.problem = self.read(), None
            except Exception as error:
                self.problem = f"the files of runs cannot be read: {said(error)}"
            publish(detail)
            self._changed.wait(EVERY_S)
