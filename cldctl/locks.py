"""Locks that other processes of this machine may hold: of a file, and of a folder in which jobs are
started."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cld_core.errors import CldError, NotFoundError
from cld_core.files import descriptor_for_writing
from cld_core.ownership import require_may_change
from cld_core.run.state import LOCK, locked_here

if TYPE_CHECKING:
    from cldctl.clusters.base import Cluster

_EVERY_S = 0.1
# Seconds that others may take to start their jobs: as long as a scheduler that does not answer
# keeps them.
PATIENCE_S = 180.0


def locked_within(descriptor: int, patience_s: float) -> bool:
    """Lock an open file for this process alone; False if others hold it for longer than
    ``patience_s`` seconds.

    Raises:
        OSError: the file system cannot lock it.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(_EVERY_S)


@contextlib.contextmanager
def holding(file: Path, patience_s: float) -> Iterator[bool]:
    """Whether this process alone holds the lock of a file, also where the file system has none;
    waits for others.

    Raises:
        OSError: the file cannot be opened.
    """
    with open(descriptor_for_writing(file)) as lock:
        try:
            is_mine = locked_within(lock.fileno(), patience_s)
        except OSError:
            is_mine = True
        yield is_mine


@contextlib.contextmanager
def only_one(
    folder: Path, cluster: "Cluster | None" = None, *, makes: bool = False
) -> Iterator[None]:
    """Let one command at a time start jobs in a folder.

    There is no lock for a cluster that blocks until the work is done: other commands would wait for
    all of it.

    Args:
        cluster: where the jobs start; None for a command that only keeps others from starting any.
        makes: make the folder if there is none, also if others remove it meanwhile.

    Raises:
        NotFoundError: there is no such folder any more.
        CldError: the folder belongs to another user (nothing is left in it), or other commands hold
            the lock for too long.
        OSError: this user may not write into the folder.
    """
    if makes:
        folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    try:
        require_may_change(folder, "Nothing was started")
        descriptor = (
            None if cluster is not None and cluster.blocks else descriptor_for_writing(file)
        )
    except FileNotFoundError as error:
        raise NotFoundError(f"{folder}: it was removed meanwhile. Nothing was started.") from error
    if descriptor is None:
        yield
        return
    try:
        _lock(descriptor, file)
        if _is_open(descriptor, file):
            locked_here.add(folder)
            yield
            return
    finally:
        locked_here.discard(folder)
        os.close(descriptor)
    # While this process waited, the file was removed, perhaps with its folder.
    with only_one(folder, cluster, makes=makes):
        yield


def _is_open(descriptor: int, file: Path) -> bool:
    """Whether a descriptor is of the file that has this path now."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.lstat())
    except OSError:
        return False


def _lock(descriptor: int, file: Path) -> None:
    """Lock a file, waiting for others up to `PATIENCE_S` seconds.

    Raises:
        CldError: somebody holds it for longer, or it cannot be locked.
    """
    try:
        is_mine = locked_within(descriptor, PATIENCE_S)
    except OSError as error:
        text = f"it cannot be locked ({error.strerror})"
        raise CldError(f"{file}: {text}. Remove it and try again.") from error
    if not is_mine:
        text = f"another cldctl has been starting jobs here for over {PATIENCE_S:.0f} s"
        raise CldError(f"{file}: {text}. Wait for it, or remove the file if there is none.")
