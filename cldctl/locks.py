"""Locks between processes of this machine: of a file, and of a folder in which jobs start."""

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
# Seconds to wait for others that start jobs; a scheduler that does not answer keeps them as long.
PATIENCE_S = 180.0


def locked_within(descriptor: int, patience_s: float) -> bool:
    """Lock an open file for this process alone, waiting for others up to ``patience_s`` seconds.

    Returns:
        False if others hold it for longer.

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
    """Lock a file in this block, waiting for others up to ``patience_s`` seconds.

    Yields:
        Whether this process holds the lock; True on a file system without locks.

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
    """Let one process at a time start jobs in a folder; others wait for the end of this block.

    A block inside another one of the same folder changes nothing. With a cluster that blocks until
    the work is done, there is no lock: others would wait for long.

    Args:
        cluster: where the jobs start; None to start none, and only keep other processes from it.
        makes: make the folder if there is none, also if it is removed meanwhile.

    Raises:
        NotFoundError: the folder does not exist any more.
        CldError: the folder belongs to another user (nothing is left in it), or other processes
            take too long.
        OSError: this user may not write into the folder.
    """
    if makes:
        folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    try:
        require_may_change(folder, "Nothing was started")
        is_locked = folder in locked_here or (cluster is not None and cluster.blocks)
        descriptor = None if is_locked else descriptor_for_writing(file)
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
    """Whether a descriptor belongs to the file that has this path now."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.lstat())
    except OSError:
        return False


def _lock(descriptor: int, file: Path) -> None:
    """Lock a file, waiting for others up to `PATIENCE_S` seconds.

    Raises:
        CldError: another process holds it for longer, or it cannot be locked.
    """
    try:
        is_mine = locked_within(descriptor, PATIENCE_S)
    except OSError as error:
        # On NFS, a lock needs the permission to write into the file.
        raise CldError(
            f"{file}: it cannot be locked ({error.strerror}). Remove it and try again."
        ) from error
    if not is_mine:
        raise CldError(
            f"{file}: another cldctl has been starting jobs here for over {PATIENCE_S:.0f} s. Wait "
            "for it, or remove the file if there is none."
        )
