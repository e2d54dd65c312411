"""One writer per run folder.

The lease is a series of numbered files. The process that creates the next number owns the folder; a
hard link makes that exclusive, on local and network file systems alike. The number is a fencing
token: an owner that sees a higher one has lost. The owner touches its file every few seconds.
Clocks of different machines are never compared: a process decides whether another owner is alive by
watching whether its file still changes.

A file system may fail for a moment, which shows neither that the owner is alive nor that it is
dead: the owner continues, a newcomer waits, and nothing of value is written before it is known who
owns the folder (`Lease.check`).
"""

import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

from cld_core.errors import LeaseHeldError, LeaseLostError
from cld_core.files import existing_object, retried, write_json
from cld_core.records import from_plain

from . import pids
from .folder import names_in

HEARTBEAT_S = 5.0
STALE_AFTER_S = 45.0
# Seconds between two readings of another owner's file.
_LOOK_S = 1.0
KEPT_NUMBERS = 4
# Seconds for which an access is repeated while the file system fails.
PATIENCE_S = 10.0
# A newcomer that cannot see whether the owner is alive waits so many times `STALE_AFTER_S`.
_BLIND = 10
_NUMBERED = re.compile(r"(\d{8})\.json")
_UNKNOWN = {"job_id": "unknown", "host": "unknown", "pid": 0, "restart": 0, "process_started": None}


# The owner of a folder, with "unknown" where its file says nothing.
Holder = dict[str, Any]


class _Owner(TypedDict, total=False):
    """The content of a numbered file: the job and the process that own the folder."""

    job_id: str
    host: str
    pid: int
    restart: int
    process_started: float
    token: str


class Lease:
    """Ownership of a run folder, renewed by a thread until `release`.

    Attributes:
        lost: whether another owner was seen.
    """

    def __init__(self, folder: Path, number: int, owner: Holder) -> None:
        self.folder = folder
        self.number = number
        self.owner = owner
        self.lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(
        cls,
        folder: Path,
        *,
        job_id: str,
        restart: int = 0,
        within_s: float = 0.0,
        gone: Collection[str] = (),
    ) -> "Lease":
        """Become the owner of ``folder``.

        Waits up to `STALE_AFTER_S` seconds if the current owner may be dead.

        Args:
            gone: ids of jobs that have ended according to their launcher: these are not waited for.
            within_s: seconds for which to retry while the file system fails.

        Raises:
            LeaseHeldError: another job is alive and owns it. Names the job, its host and its
                process.
            OSError: the folder cannot be read or written.
        """
        owner = {
            "job_id": job_id,
            "restart": restart,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": pids.start_time(os.getpid()),
            "since": time.time(),
            # Identifies a file of this owner that was created although the file system reported
            # that it was not.
            "token": secrets.token_hex(16),
        }
        number = retried(lambda: _taken(folder, owner, gone), within_s)
        return cls(folder, number, owner)

    def check(self) -> None:
        """Fail if another job owns the folder.

        Raises:
            LeaseLostError: another job owns it.
            OSError: the folder cannot be read for `PATIENCE_S` seconds.
        """
        if retried(self._is_ours, PATIENCE_S):
            return
        # The new owner is only named in the message.
        holder = None
        with suppress(OSError):
            _, holder = newest(self.folder)
        raise LeaseLostError(
            f"{self.folder.parent}: {_job_of(holder)} has taken over this run. "
            "This process ends and writes nothing."
        )

    def owned(self) -> bool:
        """Whether this process still owns the folder; True while that cannot be read."""
        with suppress(OSError):
            self.lost = self.lost or not self._is_ours()
        return not self.lost

    def release(self) -> None:
        """Give up ownership, unless the lease is lost.

        If the file cannot be written, ownership ends with the process.
        """
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            retried(self._release, PATIENCE_S)

    def _release(self) -> None:
        if self._is_ours():
            write_json(self._file, {**self.owner, "released": True})

    def _is_ours(self) -> bool:
        number = _newest_number(self.folder)
        # A listing may be older than our own file.
        return number == self.number or (number < self.number and self._file.exists())

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.number:08d}.json"

    def _keep_alive(self) -> None:
        # The heartbeat continues while the owner cannot be read, because a file that is no longer
        # the newest has no effect.
        while not self._ended.wait(HEARTBEAT_S) and self.owned():
            # Nothing is written: a full disk must not cost the lease.
            with suppress(OSError):
                os.utime(self._file)


def newest(folder: Path) -> tuple[int, Holder | None]:
    """The highest number, 0 if there is none, and its owner, None if the owner released it.

    Raises:
        OSError: the folder cannot be read at this moment.
    """
    number = _newest_number(folder)
    if number == 0:
        return 0, None
    holder = _holder(folder / f"{number:08d}.json")
    return number, None if holder.get("released") is True else holder


def _newest_number(folder: Path) -> int:
    """The highest number, 0 if there is none.

    Raises:
        OSError: the folder cannot be read at this moment.
    """
    matches = map(_NUMBERED.fullmatch, names_in(folder))
    return max((int(match[1]) for match in matches if match), default=0)


def _holder(file: Path) -> Holder:
    """The owner that a file names; values that are missing, damaged or of another type are unknown.

    Raises:
        OSError: the file cannot be read at this moment.
    """
    return {**_UNKNOWN, **from_plain(_Owner, existing_object(file) or {})}


def _job_of(holder: Holder | None) -> str:
    return "another job" if holder is None else f"job {holder['job_id']} on {holder['host']}"


def held_message(run: Path, holder: Holder) -> str:
    """The message for a folder that another job writes into."""
    owner = {**_UNKNOWN, **holder}
    return (
        f"{run}: job {owner['job_id']} (host {owner['host']}, process {owner['pid']}) is alive and "
        f"writes into this run. Wait for it, or end it with `cldctl cancel {run.name}`."
    )


def seems_alive(folder: Path) -> bool:
    """Whether the folder seems to have an owner, without waiting.

    On this host the process of the owner decides, elsewhere the age of the file. This is enough for
    displays and warnings; only `Lease.acquire` is certain. False if the folder cannot be read.
    """
    try:
        number, holder = newest(folder)
        if holder is None:
            return False
        is_alive = _is_alive(holder)
        if is_alive is None:
            changed = (folder / f"{number:08d}.json").stat().st_mtime
            is_alive = time.time() - changed < STALE_AFTER_S
        return is_alive
    except OSError:
        return False


def local_holder(folder: Path) -> Holder | None:
    """The owner of a folder, if it is a live process of this machine."""
    try:
        _, holder = newest(folder)
    except OSError:
        return None
    return holder if holder is not None and _is_alive(holder) else None


def _taken(folder: Path, owner: Holder, gone: Collection[str]) -> int:
    """The number under which ``owner`` owns the folder.

    Raises:
        LeaseHeldError: another job is alive and owns it.
        OSError: the folder cannot be read or written.
    """
    folder.mkdir(exist_ok=True)
    while True:
        number, holder = newest(folder)
        if holder is not None:
            if holder.get("token") == owner["token"]:
                return number
            is_gone = holder["job_id"] in gone and _is_alive(holder) is None
            if not (is_gone or _may_take_over(folder, number, holder, owner)):
                raise LeaseHeldError(held_message(folder.parent, holder))
        if _create(folder, number + 1, owner):
            return number + 1


def _create(folder: Path, number: int, owner: Holder) -> bool:
    """Create the numbered file with its content, atomically; False if it exists already."""
    draft = folder / f".draft.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        draft.write_text(json.dumps(owner))
        os.link(draft, folder / f"{number:08d}.json")
    except FileExistsError:
        # Possibly by this process: a network file system may repeat a request that was already
        # done.
        return False
    finally:
        # Files that cannot be removed only take space.
        with suppress(OSError):
            draft.unlink()
    with suppress(OSError):
        (folder / f"{number - KEPT_NUMBERS:08d}.json").unlink()
    return True


def _may_take_over(folder: Path, number: int, holder: Holder, owner: Holder) -> bool:
    """Whether the holder is dead; watches it for up to `STALE_AFTER_S` seconds if in doubt.

    Raises:
        OSError: it cannot be watched.
    """
    if holder["job_id"] == owner["job_id"] and owner["restart"] > holder["restart"]:
        return True  # The scheduler started the same job again, so its former process is gone.
    is_alive = _is_alive(holder)
    if is_alive is not None:
        return not is_alive
    first_beat = None
    silent_s = 0.0
    blind_s = 0.0
    while silent_s < STALE_AFTER_S:
        time.sleep(_LOOK_S)
        try:
            latest, current = newest(folder)
            beat = _heartbeat(folder, number)
        except OSError:
            # The file may have changed unseen: this second does not count as silence.
            blind_s += _LOOK_S
            if blind_s > _BLIND * STALE_AFTER_S:
                raise
            continue
        has_beaten = beat is not None and first_beat not in (None, beat)
        if latest > number or has_beaten:
            return current is None
        if latest == number and current is None:
            return True
        first_beat = first_beat or beat
        silent_s += _LOOK_S
    return True


def _heartbeat(folder: Path, number: int) -> tuple[int, int] | None:
    """Inode and time of a numbered file, which change with every heartbeat; None if it is gone."""
    try:
        stat = (folder / f"{number:08d}.json").stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _is_alive(holder: Holder) -> bool | None:
    """Whether the holder's process is alive; None if it is on another host."""
    if holder["host"] != socket.gethostname() or holder["pid"] <= 0:
        return None
    return pids.find(holder["pid"], holder["process_started"]) is not None
