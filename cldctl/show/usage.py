"""What runs have used, and what one will take: a line about one run, and the table of `cldctl usage`."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from cldctl.runs.usage import Estimate, Usage

from .format import duration, number
from .tables import Cell, table

_RIGHT = ("used", "useful", "start-up", "preempted", "crashed", "set aside", "waited", "goodput", "attempts")
# Columns that are left out if there is no room for them, the first of them first.
_LEFT_OUT = ("attempts", "group", "set aside", "start-up", "useful", "waited", "preempted", "crashed")

# A start within so many seconds is one at once.
AT_ONCE_S = 5.0


def usage_line(usage: Mapping[str, Any]) -> str:
    """What one run has used, in one line; ``usage`` is the field of ``status --json``."""
    used = f"{hours(usage['used'])} {usage['unit']}"
    lost = {"lost_to_preemption": "lost to interruptions", "lost_to_crashes": "lost to crashes"}
    parts = {"useful": "useful", **{key: text for key, text in lost.items() if usage[key] > 0}}
    shares = [f"{share(usage[key], usage['used'])} {text}" for key, text in parts.items()]
    waited = f"; queued {duration(usage['waited_s'])}" if usage["waited_s"] >= 1 else ""
    return f"{used}: {', '.join(shares)}{waited}" if usage["used"] > 0 else used + waited


def hours(value: float) -> str:
    """Hours with three significant digits, for example 0.0123, 1.53, 1,234."""
    return f"{value:,.0f}" if value >= 100 else number(value, 3)


def share(part: float, whole: float) -> str:
    """A percentage; a dash of nothing."""
    return f"{100 * part / whole:.0f}%" if whole > 0 else "-"


def usage_table(
    runs: Sequence[tuple[str, str | None, Usage]], groups: Mapping[str, Sequence[Usage]], totals: Sequence[Usage]
) -> RenderableType:
    """Runs, then groups, then totals by unit: a line each."""
    lines = [
        *((name, group or "-", usage) for name, group, usage in runs),
        *((f"group {name}", name, usage) for name, usages in groups.items() for usage in usages),
        *(("total", "-", usage) for usage in totals),
    ]
    usages = [usage for *_, usage in lines]
    has_groups = any(group != "-" for _, group, _ in lines)
    columns: dict[str, Sequence[Cell]] = {
        "run": [name for name, _, _ in lines],
        **({"group": [group for _, group, _ in lines]} if has_groups else {}),
        "used": [f"{hours(usage.used)} {usage.unit}" for usage in usages],
        "useful": [hours(usage.useful) for usage in usages],
        "start-up": [hours(usage.startup) for usage in usages],
        "preempted": [hours(usage.lost_to_preemption) for usage in usages],
        "crashed": [hours(usage.lost_to_crashes) for usage in usages],
        **({"set aside": [hours(usage.set_aside) for usage in usages]} if any(it.set_aside for it in usages) else {}),
        "waited": [duration(usage.waited_s) for usage in usages],
        "goodput": [share(usage.useful, usage.used) for usage in usages],
        "attempts": [str(usage.attempts) for usage in usages],
    }
    note = "trainings only; preempted and crashed are hours lost to either; waited is the time of jobs in the queue"
    return Group(table(columns, right=_RIGHT, optional=_LEFT_OUT, names="run"), Text(note, style="dim"))


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
