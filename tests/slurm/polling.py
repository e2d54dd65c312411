"""Waiting with a deadline: the only way these tests wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from .errors import SlurmTestError

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    *,
    timeout: float,
    what: str,
    every: float = 0.1,
    last_seen: Callable[[], object] | None = None,
) -> T:
    """Poll `condition` until it is true and return its value.

    `timeout` and `every` are in seconds. `last_seen` is called once, on failure, to show the actual state.
    Raises SlurmTestError naming `what` at the deadline.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            instead = f"; last seen: {last_seen()}" if last_seen else ""
            raise SlurmTestError(f"timed out after {timeout:g} s waiting for {what}{instead}")
        time.sleep(every)
