"""Reading the files of many runs: on a shared disk, each call mostly waits."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 16
# They are used if each of the first few items made this process wait so many seconds; on a local disk, they cost more.
SLOW_S = 0.001
_FIRST = 4


def side_by_side(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results for all items, in their order; where the disk is slow, several are worked on at the same time."""
    wall, busy = time.perf_counter(), time.thread_time()
    first = [function(item) for item in items[:_FIRST]]
    waited = (time.perf_counter() - wall) - (time.thread_time() - busy)
    if waited < _FIRST * SLOW_S:
        return [*first, *(function(item) for item in items[_FIRST:])]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [*first, *pool.map(function, items[_FIRST:])]
