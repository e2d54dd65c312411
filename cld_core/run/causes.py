"""What the end of an attempt means, by its cause: one table for all who read a ledger."""

from typing import Literal

from .events import Cause

Fate = Literal["preemption", "crashes"]

# Causes of an attempt's end that another start may not meet again.
CRASHES: tuple[Cause, ...] = ("crashed", "out_of_memory", "killed")
# Causes after which the launcher itself starts a job again.
RESTARTED_BY_LAUNCHER: tuple[Cause, ...] = ("preempted", "node_failure", "requeued")
# What an attempt was taken away by; anything else that is not an end of the training counts as a crash.
_TAKEN: tuple[Cause, ...] = ("preempted", "timeout", "terminated", "requeued", "cancelled")
_AFTER: dict[str, str] = {
    "finished": "FINISHED",
    "preempted": "STOPPED",
    "timeout": "STOPPED",
    "terminated": "STOPPED",
    "requeued": "STOPPED",
    "imported": "STOPPED",
    "cancelled": "CANCELLED",
    "killed": "LOST",
    "node_failure": "LOST",
}


def state_after(cause: str) -> str:
    """The state of a run whose last attempt ended by this cause, if nothing follows."""
    return _AFTER.get(cause, "FAILED")


def fate_of(cause: Cause | None) -> Fate | None:
    """What the steps beyond the last checkpoint are lost to after this cause; None if nothing is lost."""
    if cause in (None, "finished", "imported"):
        return None
    return "preemption" if cause in _TAKEN else "crashes"
