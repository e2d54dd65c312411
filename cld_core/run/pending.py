"""Events that wait until their ledger can be written: a full disk ends nothing, and loses nothing that is known.

They wait in the memory of this process, in order, and are written before the next one.
"""

import threading
from pathlib import Path

from cld_core.files import read_bytes, retried

from .events import Event
from .history import History
from .ledger import Ledger, to_line

_waiting: dict[Path, list[Event]] = {}
# Ledgers of which a write failed: it may have been written, and only its way to the disk have failed.
_doubtful: set[Path] = set()
_lock = threading.Lock()


def append(ledger: Ledger, event: Event, *, within_s: float = 0.0) -> bool:
    """Append an event after those that wait; False if it has to wait, too.

    Args:
        within_s: for how many seconds to try.
    """
    with _lock:
        events = _waiting.setdefault(ledger.path, [])
        was_waiting = bool(events)
        events.append(event)
        try:
            retried(lambda: _write(ledger, events), within_s)
        except OSError as error:
            if not was_waiting:
                reason = error.strerror or error
                print(f"{ledger.path} cannot be written ({reason}); its lines wait in memory", flush=True)
            return False
        if was_waiting:
            print(f"{ledger.path} can be written again, and holds what waited", flush=True)
        del _waiting[ledger.path]
        return True


def settle(ledger: Ledger, within_s: float) -> bool:
    """Write what waits, trying for so many seconds; whether nothing is left."""
    with _lock:
        events = _waiting.get(ledger.path, [])
        try:
            retried(lambda: _write(ledger, events), within_s)
        except OSError:
            return False
        _waiting.pop(ledger.path, None)
        return True


def history(ledger: Ledger, *, within_s: float = 30.0) -> History:
    """What happened, including what waits to be written.

    Raises:
        OSError: the ledger cannot be read for so many seconds.
    """
    waiting = list(_waiting.get(ledger.path, []))
    if not waiting:
        return retried(ledger.history, within_s)
    written = retried(ledger.events, within_s)
    return History.of([*written, *(event for event in waiting if event not in written)])


def _write(ledger: Ledger, events: list[Event]) -> None:
    """Write events, and take out of the list what is written."""
    while events:
        if ledger.path not in _doubtful or to_line(events[0]) not in _lines(ledger):
            _doubtful.add(ledger.path)
            ledger.append(events[0])
            _doubtful.discard(ledger.path)
        del events[0]


def _lines(ledger: Ledger) -> list[str]:
    try:
        return read_bytes(ledger.path).decode(errors="replace").split("\n")
    except FileNotFoundError:
        return []
