"""Whether a run trains on the data that it has trained on before, by what its ledger notes of them."""

import math
from collections.abc import Mapping

from .history import History

# What `cld_core.data.identity` notes: points of toy data and means of more, the checksum of images, the digest of a
# plug-in file.
POINTS, MEANS, IMAGES, PLUGIN = "points", "means", "images", "plugin"
# Machines differ in the last bits of what they compute, relative to the size of the largest number.
_TOLERANCE = 1e-3


def known_data(history: History) -> Mapping[str, str]:
    """What identifies the data of the newest attempt that notes it; empty if none does."""
    return next((attempt.data for attempt in reversed(history.attempts) if attempt.data), {})


def are_other(now: Mapping[str, str], before: Mapping[str, str]) -> bool:
    """Whether these are known to be different data.

    The digest of a plug-in counts only if no points are noted: a comment changes it.
    """
    if IMAGES in now and IMAGES in before:
        return now[IMAGES] != before[IMAGES]
    drawn = [name for name in (POINTS, MEANS) if name in now and name in before]
    if drawn:
        return not all(_are_close(now[name], before[name]) for name in drawn)
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
