"""The ledger file: one line per event, only ever appended to.

A line is a JSON object: ``time`` (seconds since 1970), ``event`` (the name of the class in snake
case) and those fields of the class that differ from their defaults.

A full disk neither ends a job nor loses events: those that a job notes (`Ledger.note`) wait in the
memory of its process, in order, until the file can be written.
"""

import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cld_core.files import append_line, parse_json, read_bytes, retried
from cld_core.records import from_plain, to_plain

from .events import KINDS, Event, Submitted, name_of
from .history import History

# A valid name of a job or a cluster. Such names are passed to commands of the scheduler, and are
# parts of the names of files.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
# Histories that are cached, since `status` and jobs read them often.
_MOST_CACHED = 4096

_Version = tuple[int, int, int]
# By path, the newest version of a file and its history.
_histories: dict[Path, tuple[_Version, History]] = {}
# By path, the events that wait to be written.
_waiting: defaultdict[Path, list[Event]] = defaultdict(list)
# Ledgers with a failed write. The line may be in the file: the write may have failed afterwards, on
# the way to the disk.
_doubtful: set[Path] = set()
_lock = threading.RLock()


def to_line(event: Event) -> str:
    """One line of JSON without a line break, which `parse` turns back into an equal event."""
    fields = to_plain(event, sparse=True)
    return json.dumps({"time": event.time, "event": name_of(type(event)), **fields})


def parse(line: str) -> Event | None:
    """The event on a line; None for an event of another version, or an unfinished line."""
    try:
        content = parse_json(line)
        kind = KINDS[content.pop("event")]
        if "time" not in content:
            return None
        event = from_plain(kind, content, any_word=True)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    if isinstance(event, Submitted):
        names = (event.job.cluster, event.job.job_id)
        if not all(map(_WORD.fullmatch, names)):
            return None
    return event


@dataclass(frozen=True)
class Ledger:
    """Reads and appends the events of a work.

    Attributes:
        notify: called after each event that this process has appended. It must not fail.
    """

    path: Path
    notify: Callable[[Event], None] | None = field(default=None, compare=False)

    def append(self, event: Event) -> None:
        """Append one event; it is on the disk when this returns."""
        append_line(self.path, to_line(event))
        if self.notify is not None:
            self.notify(event)

    def events(self) -> list[Event]:
        """All events, oldest first. Lines that `parse` cannot read are skipped.

        Raises:
            OSError: the file cannot be read, is not a regular file, or is larger than any ledger.
        """
        try:
            content = read_bytes(self.path)
        except FileNotFoundError:
            return []
        lines = content.decode(errors="replace").split("\n")
        return [event for line in lines if (event := parse(line)) is not None]

    def history(self) -> History:
        """The history of the events; it is cached, and shared by its readers."""
        try:
            file = self.path.lstat()
        except FileNotFoundError:
            return History()
        version = (file.st_ino, file.st_size, file.st_mtime_ns)
        cached = _histories.get(self.path)
        if cached is not None and cached[0] == version:
            return cached[1]
        if len(_histories) >= _MOST_CACHED:
            _histories.clear()
        history = History.of(self.events())
        _histories[self.path] = (version, history)
        return history

    def note(self, event: Event, *, within_s: float = 0.0) -> bool:
        """Append an event after the waiting events; returns False if this event has to wait, too.

        Args:
            within_s: seconds for which to try.
        """
        with _lock:
            was_waiting = bool(_waiting[self.path])
            _waiting[self.path].append(event)
            error = self.settle(within_s)
        if error is not None and not was_waiting:
            reason = error.strerror or error
            print(f"{self.path} cannot be written ({reason}); its lines wait in memory", flush=True)
        if error is None and was_waiting:
            print(f"{self.path} can be written again, and holds what waited", flush=True)
        return error is None

    def settle(self, within_s: float) -> OSError | None:
        """Try for ``within_s`` seconds to write the waiting events; returns the error, if any."""
        try:
            with _lock:
                retried(self._write_waiting, within_s)
        except OSError as error:
            return error
        return None

    def full_history(self, *, within_s: float = 30.0) -> History:
        """The history, including the events that wait to be written.

        Raises:
            OSError: the ledger cannot be read for ``within_s`` seconds.
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
