"""The ledger file: what happened, one line per event, only ever appended to (`lines` defines them)."""

import functools
from dataclasses import dataclass
from pathlib import Path

from .atomic import append_line
from .events import Event
from .history import History
from .lines import parse, to_line


@dataclass(frozen=True)
class Ledger:
    """Reads and appends the events of a run, or of sharded work."""

    path: Path

    def append(self, event: Event) -> None:
        """Append one event; it is on the disk when this returns."""
        append_line(self.path, to_line(event))

    def events(self) -> list[Event]:
        """All events, oldest first. A line that a killed writer left unfinished is skipped."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [event for line in lines if (event := parse(line)) is not None]

    def history(self) -> History:
        """The events read in one pass; see `History.of`."""
        try:
            file = self.path.stat()
        except FileNotFoundError:
            return History()
        return _history(self, file.st_ino, file.st_size, file.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _history(ledger: Ledger, inode: int, size: int, mtime_ns: int) -> History:
    """The history of a file that is as long and as old as this: `status` and jobs ask for it often."""
    return History.of(ledger.events())
