"""Whether a run trains on the data that it has trained on before, by what its ledger has of them."""

import math
from collections.abc import Mapping

from .history import History

# What `cld_core.data.identity` tells of data: points of toy data, the checksum of images, the digest of a plug-in file.
POINTS, IMAGES, PLUGIN = "points", "images", "plugin"
# Machines differ in the last bits of what they compute, relative to the size of the largest number.
_TOLERANCE = 1e-3


def known_data(history: History) -> Mapping[str, str]:
    """The data of the newest attempt that tells of any; empty if none does."""
    return next((attempt.data for attempt in reversed(history.attempts) if attempt.data), {})


def are_other(now: Mapping[str, str], before: Mapping[str, str]) -> bool:
    """Whether data are known to be others than they were.

    The digest of a plug-in counts only if nothing tells of the data themselves: a comment changes it.
    """
    if IMAGES in now and IMAGES in before:
        return now[IMAGES] != before[IMAGES]
    if POINTS in now and POINTS in before:
        return not _are_close(now[POINTS], before[POINTS])
    return PLUGIN in now and PLUGIN in before and now[PLUGIN] != before[PLUGIN]


def _are_close(one: str, other: str) -> bool:
    try:
        numbers, others = ([float(word) for word in text.split()] for text in (one, other))
    except ValueError:
        return one == other
    size = max((abs(number) for number in (*numbers, *others) if math.isfinite(number)), default=0.0)
    return len(numbers) == len(others) and all(
        a == b or abs(a - b) <= _TOLERANCE * size for a, b in zip(numbers, others, strict=True)
    )
