"""The ledger file: what happened, one line per event, only ever appended to.

A line is a JSON object: ``time`` (seconds since 1970), ``event`` (the name of the class in snake
case) and those fields of the class that differ from their defaults.

A full disk ends no job, and loses nothing that is known: what a job notes (`Ledger.note`) waits in
the memory of its process until the file can be written, in order.
"""

import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cld_core.codec import from_plain, to_plain
from cld_core.files import append_line, parse_json, read_bytes, retried

from .events import KINDS, Event, Submitted, name_of
from .history import History

# What may name a job or a cluster: it is passed on to commands of the scheduler, and is part of a
# file's name.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
# Histories that are kept, since `status` and jobs ask for them often.
_MOST_KEPT = 4096

_Version = tuple[int, int, int]
# By path, the history of a file as it last was; earlier ones would fill the memory.
_histories: dict[Path, tuple[_Version, History]] = {}
# By path, what waits to be written.
_waiting: defaultdict[Path, list[Event]] = defaultdict(list)
# Ledgers of which a write failed: it may have been written, and only its way to the disk have
# failed.
_doubtful: set[Path] = set()
_lock = threading.RLock()


def to_line(event: Event) -> str:
    """One line of JSON without a line break, which `parse` turns back into an equal event."""
    fields = to_plain(event, sparse=True)
    return json.dumps({"time": event.time, "event": name_of(type(event)), **fields})


def parse(line: str) -> Event | None:
    """The event on a line; None for one that is no event of this version, or that a killed writer
    left unfinished."""
    try:
        content = parse_json(line)
        kind = KINDS[content.pop("event")]
        if "time" not in content:
            return None
        event = from_plain(kind, content, any_word=True)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    if isinstance(event, Submitted) and not all(
        map(_WORD.fullmatch, (event.job.cluster, event.job.job_id))
    ):
        return None
    return event


@dataclass(frozen=True)
class Ledger:
    """Reads and appends the events of a run, or of sharded work.

    Attributes:
        heard: called after each event that this process has appended. It must not fail.
    """

    path: Path
    heard: Callable[[Event], None] | None = field(default=None, compare=False)

    def append(self, event: Event) -> None:
        """Append one event; it is on the disk when this returns."""
        append_line(self.path, to_line(event))
        if self.heard is not None:
            self.heard(event)

    def events(self) -> list[Event]:
        """All events, oldest first. A line that is no event of this version, or unfinished, is
        skipped.

        Raises:
            OSError: the file cannot be read, is no regular file, or is larger than any ledger.
        """
        try:
            content = read_bytes(self.path)
        except FileNotFoundError:
            return []
        lines = content.decode(errors="replace").split("\n")
        return [event for line in lines if (event := parse(line)) is not None]

    def history(self) -> History:
        """The events read in one pass; see `History.of`."""
        try:
            file = self.path.lstat()
        except FileNotFoundError:
            return History()
        version = file.st_ino, file.st_size, file.st_mtime_ns
        kept = _histories.get(self.path)
        if kept is None or kept[0] != version:
            if len(_histories) >= _MOST_KEPT:
                _histories.clear()
            kept = _histories[self.path] = version, History.of(self.events())
        return kept[1]

    def note(self, event: Event, *, within_s: float = 0.0) -> bool:
        """Append an event after those that wait; False if it has to wait, too.

        Args:
            within_s: for how many seconds to try.
        """
        with _lock:
            was_waiting = bool(_waiting[self.path])
            _waiting[self.path].append(event)
            error = self.settle(within_s)
        if error is not None and not was_waiting:
            print(
                (
                    f"{self.path} cannot be written ({error.strerror or error}); its lines wait in "
                    f"memory"
                ),
                flush=True,
            )
        if error is None and was_waiting:
            print(f"{self.path} can be written again, and holds what waited", flush=True)
        return error is None

    def settle(self, within_s: float) -> OSError | None:
        """Write what waits, trying for so many seconds; why something is left, if so."""
        try:
            with _lock:
                retried(self._write_waiting, within_s)
        except OSError as error:
            return error
        return None

    def full_history(self, *, within_s: float = 30.0) -> History:
        """What happened, including what waits to be written.

        Raises:
            OSError: the ledger cannot be read for so many seconds.
        """
        waiting = list(_waiting[self.path])
        if not waiting:
            return retried(self.history, within_s)
        written = retried(self.events, within_s)
        return History.of([*written, *(event for event in waiting if event not in written)])

    def _write_waiting(self) -> None:
        events = _waiting[self.path]
        while events:
            if self.path not in _doubtful or events[0] not in self.events():
                _doubtful.add(self.path)
                self.append(events[0])
                _doubtful.discard(self.path)
            del events[0]
