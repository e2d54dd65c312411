"""The ledger file: what happened, one line per event, only ever appended to.

A line is a JSON object: ``time`` (seconds since 1970), ``event`` (the name of the class in snake case) and those fields
of the class that differ from their defaults.
"""

import errno
import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from cld_core.codec import from_plain, to_plain
from cld_core.files import append_line, parse_json, read_bytes

from . import changes
from .events import KINDS, Event, Submitted, name_of
from .history import History

# Far more than a run of years has, or the largest array with a line for each task; reading them takes seconds.
MAX_LINES = 1_000_000
# What may name a job or a cluster: it is passed on to commands of the scheduler, and is part of a file's name.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


def to_line(event: Event) -> str:
    """One line of JSON without a line break, which `parse` turns back into an equal event."""
    fields = to_plain(event, sparse=True)
    return json.dumps({"time": event.time, "event": name_of(type(event)), **fields})


def parse(line: str) -> Event | None:
    """The event on a line; None for one that is no event of this version, or that a killed writer left unfinished."""
    try:
        content = parse_json(line)
        kind = KINDS[content.pop("event")]
        if "time" not in content:
            return None
        event = from_plain(kind, content, any_word=True)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    if isinstance(event, Submitted) and not all(map(_WORD.fullmatch, (event.job.cluster, event.job.job_id))):
        return None
    return event


@dataclass(frozen=True)
class Ledger:
    """Reads and appends the events of a run, or of sharded work."""

    path: Path

    def append(self, event: Event) -> None:
        """Append one event; it is on the disk when this returns."""
        changes.mark_of(self.path)
        append_line(self.path, to_line(event))

    def events(self) -> list[Event]:
        """All events, oldest first. A line that is no event of this version, or unfinished, is skipped.

        Raises:
            OSError: the file cannot be read, is no regular file, or is larger than any ledger.
        """
        try:
            content = read_bytes(self.path)
        except FileNotFoundError:
            return []
        if content.count(b"\n") > MAX_LINES:
            raise OSError(errno.EFBIG, f"more than {MAX_LINES} lines", str(self.path))
        lines = content.decode(errors="replace").split("\n")
        return [event for line in lines if (event := parse(line)) is not None]

    def history(self, file: os.stat_result | None = None) -> History:
        """The events read in one pass; see `History.of`.

        Args:
            file: its status, if the caller has just looked.
        """
        try:
            file = file or self.path.lstat()
        except FileNotFoundError:
            return History()
        return _newest(self.path).of(self, (file.st_ino, file.st_size, file.st_mtime_ns))


class _Newest:
    """The history of a file as it last was: `status` and jobs ask for it often. Earlier ones would fill the memory."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[int, int, int], History] | None = None

    def of(self, ledger: Ledger, version: tuple[int, int, int]) -> History:
        kept = self._kept
        if kept is None or kept[0] != version:
            self._kept = kept = version, History.of(ledger.events())
        return kept[1]


@functools.lru_cache(maxsize=4096)
def _newest(path: Path) -> _Newest:
    return _Newest()
