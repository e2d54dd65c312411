"""A rank that makes no progress shows where it is and ends."""

import faulthandler
import sys
import time


class Watchdog:
    """Prints all stacks and ends the process if it was not reset for ``timeout_s`` seconds, until `close`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s, self._set = timeout_s, -float("inf")
        self.reset()

    def reset(self) -> None:
        """Progress was made; starts the watch again after `close`."""
        now = time.monotonic()
        # Setting it starts a thread, so not at every step.
        if now - self._set > min(5.0, self._timeout_s / 4):
            self._set = now
            faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=sys.__stderr__ or sys.stderr)

    def close(self) -> None:
        self._set = -float("inf")
        faulthandler.cancel_dump_traceback_later()
