"""The ledger file: what happened, one line per event, only ever appended to (`events` defines the lines)."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .atomic import append_line
from .events import Event, parse, to_line
from .history import History


class Ledger:
    """Reads and appends the events of a run, or of sharded work."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: Event) -> None:
        """Append one event; it is on the disk when this returns."""
        append_line(self.path, to_line(event))

    def events(self) -> list[Event]:
        """All events, oldest first. A line that a killed writer left unfinished is skipped."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return []
        return list(_events(self.path, found.st_ino, found.st_size, found.st_mtime_ns))

    def history(self, progress: Mapping[str, Any] | None = None) -> History:
        """The events read in one pass; see `History.of`."""
        return History.of(self.events(), progress)


@functools.lru_cache(maxsize=4096)
def _events(path: Path, inode: int, size: int, mtime_ns: int) -> tuple[Event, ...]:
    """The events of a file that is as long and as old as this; `status` reads each ledger more than once."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(event for line in lines if (event := parse(line)) is not None)
