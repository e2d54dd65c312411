"""What the clusters and a folder of sharded work tell of its state."""

from collections.abc import Sequence

from cld_core.shards import Work

from .survey import Answers


def work_state(work: Work, answers: Answers) -> str:
    """FINISHED, RUNNING, PENDING or STOPPED."""
    if work.is_done:
        return "FINISHED"
    jobs = [event.job for event in work.ledger.history().submitted]
    phases = {answers.of(job).phase for job in jobs}
    if phases & {"running", "suspended", "ending"}:
        return "RUNNING"
    if phases & {"pending", "unknown"} and _has_moved(work, [answers.as_of(job.cluster) for job in jobs]):
        return "RUNNING"
    return "PENDING" if phases & {"pending", "unknown"} else "STOPPED"


def _has_moved(work: Work, asked: Sequence[float | None]) -> bool:
    """Whether a task has written since the clusters were asked: states of shards are replaced in their folder."""
    times = [when for when in asked if when is not None]
    try:
        return bool(times) and work.shards.stat().st_mtime > max(times)
    except OSError:
        return False
