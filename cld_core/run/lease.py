"""One writer per run folder.

The lease is a series of numbered files. Whoever creates the next number (a hard link, which is exclusive on local and
network file systems alike) owns the folder. The number is a fencing token: an owner that sees a higher one has lost.
The owner changes its file every few seconds. Clocks of different machines are never compared: a process decides whether
another owner is alive by watching whether its file still changes.
"""

import contextlib
import json
import os
import re
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

from cld_core.errors import LeaseHeldError, LeaseLostError
from cld_core.small_files import read_json

from . import process
from .atomic import write_json

HEARTBEAT_S = 5.0
STALE_AFTER_S = 45.0
KEPT_NUMBERS = 4
_NUMBERED = re.compile(r"(\d{8})\.json")


class Lease:
    """Ownership of a run folder, renewed by a thread until `release`; ``lost`` once another owner was seen."""

    def __init__(self, folder: Path, number: int, owner: dict[str, Any], heartbeat_s: float) -> None:
        self.folder, self.number, self.owner = folder, number, owner
        self._beat, self._heartbeat_s = 0, heartbeat_s
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
        heartbeat_s: float = HEARTBEAT_S,
        stale_after_s: float = STALE_AFTER_S,
    ) -> "Lease":
        """Become the owner of ``folder``, waiting up to ``stale_after_s`` seconds if the current owner may be dead.

        Raises:
            LeaseHeldError: another job is alive and owns it. Names the job, its host and its process.
        """
        owner = {
            "job_id": job_id,
            "restart": restart,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": process.start_time(os.getpid()),
            "since": time.time(),
        }
        folder.mkdir(exist_ok=True)
        while True:
            number, holder = newest(folder)
            if holder is not None and not _may_take_over(folder, number, holder, owner, stale_after_s):
                raise LeaseHeldError(held_message(folder.parent, holder))
            if _create(folder, number + 1, owner):
                return cls(folder, number + 1, owner, heartbeat_s)

    def check(self) -> None:
        """Fail if another job owns the folder.

        Raises:
            LeaseLostError
        """
        number, holder = newest(self.folder)
        if number != self.number:
            taken_by = f"job {holder['job_id']} on {holder['host']}" if holder else "another job"
            text = f"{self.folder.parent}: {taken_by} has taken over this run. This process ends and writes nothing."
            raise LeaseLostError(text)

    def owned(self) -> bool:
        """Whether this process still owns the folder."""
        self.lost = self.lost or newest(self.folder)[0] != self.number
        return not self.lost

    def release(self) -> None:
        """Give up ownership. A lost lease is left alone."""
        self._ended.set()
        self._thread.join()
        if newest(self.folder)[0] == self.number:
            write_json(self._file, {**self.owner, "released": True})

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.number:08d}.json"

    def _keep_alive(self) -> None:
        while not self._ended.wait(self._heartbeat_s):
            if not self.owned():
                return
            self._beat += 1
            try:
                write_json(self._file, {**self.owner, "beat": self._beat})
            except OSError:
                # A full disk must not cost the lease: a new modification time is as good a sign of life.
                with contextlib.suppress(OSError):
                    os.utime(self._file)


def newest(folder: Path) -> tuple[int, dict[str, Any] | None]:
    """The highest number handed out, 0 at first, and its owner, None if it was released."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0, None
    number = max((int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))), default=0)
    if number == 0:
        return 0, None
    holder = read_json(folder / f"{number:08d}.json")
    if holder is None:
        holder = {"job_id": "unknown", "host": "unknown", "pid": 0}
    return number, None if holder.get("released") else holder


def held_message(run: Path, holder: dict[str, Any]) -> str:
    """The message for a folder that another job writes into."""
    who = f"job {holder['job_id']} (host {holder['host']}, process {holder['pid']})"
    return f"{run}: {who} is alive and writes into this run. Wait for it, or end it with `cldctl cancel {run.name}`."


def seems_alive(folder: Path, fresh_s: float = STALE_AFTER_S) -> bool:
    """Whether somebody owns the folder, without waiting: by its process on this host, elsewhere by the file's age.

    Good enough to show or to warn; only `Lease.acquire` decides.
    """
    number, holder = newest(folder)
    if holder is None:
        return False
    known = _known_to_live(holder)
    if known is not None:
        return known
    try:
        return time.time() - (folder / f"{number:08d}.json").stat().st_mtime < fresh_s
    except FileNotFoundError:
        return False


def local_holder(folder: Path) -> dict[str, Any] | None:
    """The owner of a folder, if it is a live process of this machine."""
    _, holder = newest(folder)
    return holder if holder is not None and _known_to_live(holder) else None


def _create(folder: Path, number: int, owner: dict[str, Any]) -> bool:
    """Create the numbered file with its content, atomically; False if somebody else was first."""
    draft = folder / f".draft.{os.getpid()}.{secrets.token_hex(4)}"
    draft.write_text(json.dumps(owner))
    try:
        os.link(draft, folder / f"{number:08d}.json")
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    (folder / f"{number - KEPT_NUMBERS:08d}.json").unlink(missing_ok=True)
    return True


def _may_take_over(
    folder: Path, number: int, holder: dict[str, Any], owner: dict[str, Any], stale_after_s: float
) -> bool:
    """Whether the holder is dead. Watches it for up to ``stale_after_s`` seconds if that is not certain."""
    if holder["job_id"] == owner["job_id"] and owner["restart"] > holder.get("restart", 0):
        return True  # The scheduler started the same job again, so its former process is gone.
    alive = _known_to_live(holder)
    if alive is not None:
        return not alive
    file = folder / f"{number:08d}.json"
    first, deadline = _mark(file), time.monotonic() + stale_after_s
    while time.monotonic() < deadline:
        time.sleep(min(1.0, stale_after_s / 10))
        if newest(folder) != (number, holder) or _mark(file) != first:
            current = newest(folder)
            return current[1] is None or (current[0] == number and _mark(file) == first)
    return True


def _mark(file: Path) -> tuple[int, int] | None:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _known_to_live(holder: dict[str, Any]) -> bool | None:
    """Whether the holder's process is alive; None if it is on another host."""
    if holder["host"] != socket.gethostname() or not holder["pid"]:
        return None
    return process.find(holder["pid"], holder.get("process_started")) is not None
