"""What a run that is alive does at the moment, in the words that people see."""

from cld_core.run.contents import ReportedProgress
from cld_core.run.history import History
from cld_core.texts import one_line

from .state import WAITS

WAITING, STARTING, TRAINING = "waiting for the queue", "starting", "training"
# Characters of a phase, which comes from a file.
_MOST = 40


def phase_of(state: str, history: History, progress: ReportedProgress, *, has_machines: bool) -> str | None:
    """The phase of a run in this state; None if it is over.

    Args:
        has_machines: whether its launcher says that the job runs, though the run may not have begun.
    """
    if state in WAITS:
        return STARTING if has_machines else WAITING
    if state != "RUNNING":
        return None
    last = history.last
    if last is None or last.cause is not None or progress.get("attempt") != last.attempt:
        return STARTING
    return one_line(progress.get("phase") or TRAINING, _MOST)
