"""Waiting for a lock that other processes of this machine may hold."""

import fcntl
import time

_EVERY_S = 0.1


def locked_within(descriptor: int, patience_s: float) -> bool:
    """Lock an open file for this process alone; False if others hold it for longer than ``patience_s`` seconds.

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
