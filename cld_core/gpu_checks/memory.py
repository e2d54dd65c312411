"""What does not fit into memory, and how much of it would."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def attempted(call: Callable[[], Result]) -> Result | None:
    """What ``call`` returns, or None if it is out of memory; what it held is free then."""
    try:
        return call()
    except torch.OutOfMemoryError:
        pass
    # Only here: while it is handled, the error's traceback keeps the tensors of all frames alive.
    gc.collect()
    torch.cuda.empty_cache()
    return None


def halved(rows: int, call: Callable[[int], Result]) -> tuple[int, Result] | None:
    """The first of ``rows``, half of them, a quarter, ... that fit into memory, and what ``call`` returns for them.

    None if not even one row fits.
    """
    while rows:
        result = attempted(lambda: call(rows))  # noqa: B023, called at once
        if result is not None:
            return rows, result
        rows //= 2
    return None
