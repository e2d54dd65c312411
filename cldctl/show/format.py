"""Numbers as people read them."""

import time
from collections.abc import Sequence


def duration(seconds: float | None) -> str:
    """For example 42s, 3m10s, 5h02m, 2d04h; a dash for None."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 24 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def age(since: float | None) -> str:
    """How long ago a time was, seconds since 1970."""
    return "-" if since is None else f"{duration(time.time() - since)} ago"


def number(value: float | None, digits: int = 4) -> str:
    """A number with ``digits`` significant digits; a dash for None."""
    return "-" if value is None else f"{value:.{digits}g}"


def count(value: int | None) -> str:
    """A whole number with thousands separated; a dash for None."""
    return "-" if value is None else f"{value:,}"


def short(value: int | None) -> str:
    """A whole number with four digits, for example 950, 12k, 12.5k, 1.25M; a dash for None."""
    if value is None:
        return "-"
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return str(value)


def keys_differ(number: int) -> str:
    """How many keys of two recipes differ, as the beginning of a sentence."""
    return "No key differs" if number == 0 else "1 key differs" if number == 1 else f"{number} keys differ"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def shortened(name: str, width: int) -> str:
    """A name in ``width`` characters, or fewer: more of its end stays than of its start: it tells it from others."""
    if len(name) <= width:
        return name
    last = max(width - 1, 0) * 3 // 5
    return f"{name[: max(width - 1 - last, 0)]}…{name[len(name) - last :]}"
