"""Submissions that are done as a whole: Ctrl-C between two jobs that belong together waits for the second."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def uninterrupted(*, unless: bool = False) -> Iterator[None]:
    """Put Ctrl-C off until the end of the block; a second one ends it at once.

    Args:
        unless: leave everything as it is: what is computed inside listens itself.

    Raises:
        KeyboardInterrupt: at the end, if it was asked for.
    """
    before = signal.getsignal(signal.SIGINT)
    if unless or before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt
        print("interrupted; finishing the submission; press Ctrl-C again to abort", file=sys.stderr)

    signal.signal(signal.SIGINT, later)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt
