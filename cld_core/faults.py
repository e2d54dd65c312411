"""Faults that pass: a disk that is full for a moment, a network file system that loses a handle. Loads no torch.

What must be written is tried again (`retried`); what need not be is dropped and counted (`Dropping`).
"""

import errno
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeVar, cast

T = TypeVar("T")

# Errors that say nothing about the next try. Those of a wrong path or of missing rights are not among them.
PASSING = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EREMOTEIO, errno.ESTALE),
        *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOLCK, errno.ETIMEDOUT),
        *(errno.ENOMEM, errno.ENOBUFS, errno.ENFILE, errno.EMFILE),
        *(errno.ENOTCONN, errno.ESHUTDOWN, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
    }
)
# Seconds between two tries: at first, and at most.
_FIRST_S, _MOST_S = 0.1, 10.0


def passes(error: BaseException | None) -> bool:
    """Whether an error may be gone at the next try."""
    return isinstance(error, OSError) and error.errno in PASSING


def pauses(first_s: float = _FIRST_S, most_s: float = _MOST_S) -> Iterator[float]:
    """Seconds to wait before each further try: twice as long each time."""
    pause = first_s
    while True:
        yield pause
        pause = min(2 * pause, most_s)


def retried(work: Callable[[], T], within_s: float, *, stop: Callable[[], bool] = lambda: False) -> T:
    """What ``work`` returns, which is called again for ``within_s`` seconds if it meets a fault that passes.

    Args:
        stop: asked before each further call; True ends the waiting.

    Raises:
        OSError: the last one.
    """
    deadline = time.monotonic() + within_s
    for pause in pauses():
        try:
            return work()
        except OSError as error:
            if not passes(error) or time.monotonic() + pause > deadline or stop():
                raise
        time.sleep(pause)
    raise AssertionError("pauses never end")


class Dropping:
    """Work that may fail: what cannot be done is dropped, counted, and reported when that begins and when it is over.

    Args:
        what: the subject of the reports, for example "progress.json".
        over: called with the number of failures and the first reason when the work succeeds again.
    """

    def __init__(self, what: str, over: Callable[[int, str], object] = lambda count, reason: None) -> None:
        self._what, self._over = what, over
        self.count, self._reason = 0, ""

    def attempt(self, work: Callable[[], object]) -> bool:
        """Do it; False if it failed with an `OSError`."""
        try:
            work()
        except OSError as error:
            self.failed(error)
            return False
        self.succeeded()
        return True

    def failed(self, error: OSError) -> None:
        self.count += 1
        if self.count == 1:
            self._reason = error.strerror or str(error)
            print(f"{self._what} cannot be written ({self._reason}); going on without", flush=True)

    def succeeded(self) -> None:
        if self.count:
            print(f"{self._what} can be written again; dropped {self.count} time(s)", flush=True)
        self.ended()

    def ended(self) -> None:
        """Report what is being dropped as if that were over: there is nothing more to do."""
        if self.count:
            self._over(self.count, self._reason)
        self.count = 0


class _Output:
    """A text stream whose reader or disk may be gone: what cannot be written is lost, and nobody fails for it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def forgive_output() -> None:
    """From now on, a line of this process's log that cannot be written is lost, and nothing else."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Output):
            setattr(sys, name, cast(IO[str], _Output(stream)))
