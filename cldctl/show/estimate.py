"""What a run will take, in one line, before it begins."""

import time

from cldctl.runs.estimate import Estimate

from .format import duration, number
from .usage import hours

# A start within so many seconds is one at once.
AT_ONCE_S = 5.0


def estimate_line(estimate: Estimate | None, start: float | None) -> str:
    """The line, which says also what nobody knows.

    Args:
        start: when the job would begin, seconds since 1970; None if nobody knows.
    """
    wait = None if start is None else start - time.time()
    begins = None if wait is None else "begins at once" if wait < AT_ONCE_S else f"begins in about {duration(wait)}"
    if estimate is None:
        return "estimate: no comparable run yet" + (f"; {begins}" if begins else "")
    others = f" and {len(estimate.runs) - 1} more" if len(estimate.runs) > 1 else ""
    source = f"at {number(estimate.rate, 3)} steps/s as in {estimate.runs[0]}{others}"
    cost = f"{duration(estimate.seconds)} of training, {hours(estimate.hours)} {estimate.unit}, {source}"
    return f"estimate: {cost}" + (f"; {begins}" if begins else "")
