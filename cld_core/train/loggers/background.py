"""A logger in a thread of its own: it may be slow, fail or hang, and training goes on."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cld_core.files import Dropping
from cld_core.sanitize import one_line

from .base import End, Logger, Over

if TYPE_CHECKING:
    from torch import Tensor

# Reports that wait at most; what comes then is dropped.
_MOST = 2_000
# Seconds before a logger that could not be opened is tried again.
_AGAIN_S = 60.0
# Seconds that the end of an attempt waits for loggers. SIGTERM leaves 30 for all that there is to do.
CLOSE_S = 10.0

Work = Callable[[Logger], object]


class Background:
    """Hands everything to a logger in another thread.

    What the logger does not take, whatever the reason, is dropped: one warning says so, and the ledger how much it was.

    Args:
        title: what messages call the logger.
        make: opens the logger, in the thread; called again if that or a later call fails.
        over: see `Dropping`.
    """

    def __init__(self, title: str, make: Callable[[], Logger], over: Over) -> None:
        self._title, self._make = title, make
        self._dropping = Dropping(f"the log in {title}", over)
        self._works: queue.Queue[Work | None] = queue.Queue(_MOST)
        # What became of each report. The ledger and the warnings belong to the thread that trains.
        self._outcomes: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._end: End = "stopped"
        self._within_s, self._told = CLOSE_S, False
        self._deadline: float | None = None
        self._deserted = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"log in {title}", daemon=True)
        self._thread.start()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        kept = dict(values)
        self._ask(lambda logger: logger.scalars(kept, step))

    def text(self, name: str, markdown: str, step: int) -> None:
        self._ask(lambda logger: logger.text(name, markdown, step))

    def picture(self, name: str, pixels: "Tensor", step: int) -> None:
        self._ask(lambda logger: logger.picture(name, pixels, step))

    def begin_close(self, end: End, within_s: float = CLOSE_S) -> None:
        """Let the logger end without waiting for it; `close` waits until ``within_s`` seconds from now."""
        self._end, self._within_s, self._deadline = end, within_s, time.monotonic() + within_s
        with contextlib.suppress(queue.Full):
            self._works.put_nowait(None)
            self._told = True

    def close(self, end: End, within_s: float = CLOSE_S) -> None:
        """Wait for what is left, but not longer than ``within_s`` seconds, or than `begin_close` was asked for."""
        if self._deadline is None:
            self.begin_close(end, within_s)
        if not self._told:
            with contextlib.suppress(queue.Full):
                self._works.put(None, timeout=self._left_s())
                self._told = True
        if self._told:
            self._thread.join(self._left_s())
        self._deserted.set()
        self._review()
        if self._thread.is_alive():
            self._dropping.failed(TimeoutError(f"it does not answer within {self._within_s:g} s"))
            self._dropping.count += self._works.qsize() - self._told
        self._dropping.ended()

    def _left_s(self) -> float:
        return max(0.0, (self._deadline or 0.0) - time.monotonic())

    def _ask(self, work: Work) -> None:
        self._review()
        try:
            self._works.put_nowait(work)
        except queue.Full:
            self._dropping.failed(OSError("it is too slow"))

    def _review(self) -> None:
        """Report what the thread has met since the last call."""
        while True:
            try:
                outcome = self._outcomes.get_nowait()
            except queue.Empty:
                return
            if outcome is None:
                self._dropping.succeeded()
            else:
                self._dropping.failed(_as_os_error(outcome))

    def _run(self) -> None:
        logger: Logger | None = None
        not_before, last = 0.0, Exception()
        while (work := self._works.get()) is not None and not self._deserted.is_set():
            if logger is None and time.monotonic() < not_before:
                self._outcomes.put(last)
                continue
            try:
                if logger is None:
                    not_before = time.monotonic() + _AGAIN_S
                    logger = self._make()
                    not_before = 0.0
                work(logger)
            except Exception as error:
                last = error
                if logger is not None:
                    _dismiss(logger)
                logger = None
                self._outcomes.put(error)
            else:
                self._outcomes.put(None)
        if logger is not None:
            try:
                logger.close(self._end)
            except Exception as error:
                self._outcomes.put(error)


def _dismiss(logger: Logger) -> None:
    """Close a logger that has failed: another one continues its curve."""
    with contextlib.suppress(Exception):
        logger.close("stopped")


def _as_os_error(error: Exception) -> OSError:
    """An error of a library as one that is reported and forgotten."""
    if isinstance(error, OSError) and error.strerror:
        return error
    return OSError(f"{type(error).__name__}: {one_line(error)}".removesuffix(": "))
