"""What a run's own files say that is newer than what its launcher said: pure, and knows no cluster by name."""

from collections.abc import Callable
from dataclasses import replace

from cld_core.run import events
from cld_core.run.causes import CRASHES, RESTARTED_BY_LAUNCHER
from cld_core.run.events import JobRef
from cld_core.run.history import History
from cldctl.clusters.records import Phase, Seen

from .survey import Answers

# Seconds in which a job decides what follows a crash.
_DECIDING_S = 30.0


def seen_by(history: History, answers: Answers, now: float) -> Callable[[JobRef], Seen]:
    """What is known about a job at ``now``: the answer of its launcher, unless the ledger has heard of it since.

    An answer that was asked for at this moment counts, whatever the ledger's clock says.
    """

    def seen(job: JobRef) -> Seen:
        answer, as_of = answers.of(job), answers.as_of(job.cluster)
        if as_of is None:
            return answer
        when, phase = _last_heard(history, job, now)
        if phase is None or when <= as_of:
            return answer
        return _updated(answer, phase)

    return seen


def _last_heard(history: History, job: JobRef, now: float) -> tuple[float, Phase | None]:
    """When the ledger last heard of a job, and the phase that follows from that; None if none follows."""
    last, event, requeued = history.last, history.last_of.get(job.job_id), history.requeued
    mine = last if last is not None and last.job_id == job.job_id else None
    if isinstance(event, events.NotBegun):
        return event.time, "gone"
    if isinstance(event, events.NotRequeued):
        return event.time, "ending"
    if requeued is not None and requeued.job_id == job.job_id and (mine is None or history.was_requeued(mine)):
        return requeued.time, "pending"
    if mine is None:
        # That it was submitted: whether it waits or runs, nobody has said.
        return (event.time, "unknown") if isinstance(event, events.Submitted) else (0.0, None)
    if mine.cause is None:
        return mine.started, "running"
    ended = mine.ended or mine.started
    may_go_on = mine.cause in RESTARTED_BY_LAUNCHER or (mine.cause in CRASHES and now - ended < _DECIDING_S)
    return ended, "running" if may_go_on else "ending"


def _updated(answer: Seen, phase: Phase) -> Seen:
    """An answer that is older than what is known now."""
    if answer.phase == phase:
        return answer
    if phase == "unknown":
        return answer if answer.phase in ("pending", "running") else Seen("unknown", reason=answer.reason)
    if phase == "running" and answer.phase in ("suspended", "ending"):
        return answer
    node = answer.node if phase in ("running", "ending") else ""
    return replace(Seen(phase), node=node)
