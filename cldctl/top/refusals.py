"""Why a key does nothing to a run in its present state: it is said at once, not after a question."""

from collections.abc import Iterable

from cld_core.run import RunFolder
from cldctl.hints import command
from cldctl.runs.state import OVER, RESUMABLE
from cldctl.runs.status import RunStatus


def of_resume(row: RunStatus) -> str | None:
    """Why a run cannot be resumed; None if it can be."""
    if not row.is_readable:
        return _unreadable(row)
    if row.state not in OVER:
        return f"{row.name} is {row.state}: there is nothing to resume."
    if is_complete(row):
        more = command(f"resume {row.name} train.steps=...", RunFolder(row.path))
        return f"{row.name} is FINISHED at step {row.step:,}. To train it for longer: {more}"
    return None


def of_cancel(row: RunStatus) -> str | None:
    """Why there is nothing of a run to cancel; None if there is."""
    if is_alive(row):
        return None
    return f"{row.name} is {row.state}: there is nothing to cancel."


def of_sample(row: RunStatus) -> str | None:
    """Why no samples of a run can be drawn; None if they can be."""
    if not row.is_readable:
        return _unreadable(row)
    if row.checkpoint_step is None:
        return f"{row.name} has no checkpoint yet: there is nothing to draw samples with."
    return None


def resumable(rows: Iterable[RunStatus]) -> list[RunStatus]:
    """Those runs of a group that its resumption continues."""
    return [row for row in rows if row.state in RESUMABLE and row.is_readable]


def is_complete(row: RunStatus) -> bool:
    """Whether a run has done all its steps."""
    return row.state == "FINISHED" and row.step >= (row.steps or 0)


def is_alive(row: RunStatus) -> bool:
    """Whether anything of a run is, be it an evaluation only."""
    return row.state not in OVER or row.is_evaluating


def _unreadable(row: RunStatus) -> str:
    return f"{row.name} cannot be read: {row.reason}"
