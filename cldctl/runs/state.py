"""The state of a run: a table over its history and what its launcher says. Pure, and knows no cluster by name."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from cld_core.run import events
from cld_core.run.events import CRASHES, RESTARTED_BY_LAUNCHER, JobRef, Refused, Requested, Submitted, state_after
from cld_core.run.history import Attempt, History
from cldctl.clusters.records import Phase, Seen

from .survey import Answers

# A job follows its request within moments; after this many seconds the submission was interrupted, unless its process
# still works on it.
SUBMITTING_S = 30.0
# All states with the colours in which they are shown, in the order in which they are sorted and counted: those first
# that matter most to somebody who watches.
STATES = {
    "RUNNING": "bold green",
    "REQUEUED": "yellow",
    "PENDING": "yellow",
    "FAILED": "bold red",
    "LOST": "bold red",
    "STOPPED": "magenta",
    "CANCELLED": "dim",
    "FINISHED": "green",
}
# The states of runs that wait for their job to begin, and of all that are alive.
WAITS = ("REQUEUED", "PENDING")
ALIVE = ("RUNNING", *WAITS)
RESUMABLE = frozenset({"STOPPED", "FAILED", "CANCELLED", "LOST"})
OVER = RESUMABLE | {"FINISHED"}

_FAILURES = ("crashed", "out_of_memory")
_COLUMNS = ("request", "job", "attempt", "after", "phase", "end", "restarts", "back", "given_up", "stuck")
_HERE = "pending|running|suspended|ending|unknown"
_BACK = "running|suspended|ending|unknown"
_INTERRUPTED = "the submission was interrupted before it reached the scheduler; resume it"
_VANISHED = "the job is gone without a message: it was killed, or its node failed"
_DECIDING = "the attempt failed; its job is deciding whether to start again"
# Seconds in which a job decides what follows a crash.
_DECIDING_S = 30.0


@dataclass(frozen=True)
class Situation:
    """The columns of the table, and what reasons are made of. A column without a value is empty.

    Attributes:
        request: of a request that no job followed: "refused", "open", or "stale" after `SUBMITTING_S`.
        job: "none", or whether the current job is the "first" or a "successor" that waited for another to fail.
        attempt: of the current job: "none", "open" or "ended"; "other" if the newest belongs to an earlier job.
            Without a job, of the newest attempt.
        after: the state that the cause of an ended attempt leads to.
        phase: of the current job, `Seen.phase`.
        end: how the current job ended: "cancelled", "failed" or "quiet".
        restarts: "yes" if the launcher can start the current job again.
        back: "yes" if it does so after the end of the attempt.
        given_up: "yes" if a retry budget is spent since then.
        stuck: "yes" if the job ended because it could not put itself back into the queue.
    """

    history: History
    current: JobRef | None
    seen: Seen
    request: str = ""
    job: str = "none"
    attempt: str = "none"
    after: str = ""
    phase: str = ""
    end: str = ""
    restarts: str = "no"
    back: str = "no"
    given_up: str = "no"
    stuck: str = "no"


# A text, or how it is made from the situation.
Reason = str | Callable[[Situation], str | None] | None


def _submitter(situation: Situation) -> str | None:
    request = situation.history.request
    if not isinstance(request, Requested) or request.host is None:
        return None
    return f"being submitted by process {request.pid} on {request.host}"


def _why_it_waits(situation: Situation) -> str | None:
    return situation.seen.reason or None


def _never_began(situation: Situation) -> str | None:
    assert situation.current is not None, "a job that did not begin"
    word = f" (its launcher says {situation.seen.word})" if situation.seen.word else ""
    unexplained = f"the job ended before it began{word}; see `cldctl logs`"
    return situation.history.not_begun.get(situation.current.job_id, unexplained)


def _warning(situation: Situation) -> str | None:
    if situation.phase == "suspended":
        return situation.seen.reason or "suspended"
    last = situation.history.last
    return None if last is None else last.warning


def _launchers_word(situation: Situation) -> str | None:
    return f"its launcher says {situation.seen.word or situation.seen.ended}; see `cldctl logs`"


def _detail(situation: Situation) -> str | None:
    last = situation.history.last
    return last.detail if last is not None and situation.after == "FAILED" else None


def _detail_or_wait(situation: Situation) -> str | None:
    return _detail(situation) or _why_it_waits(situation)


def _stuck(situation: Situation) -> str | None:
    reason = situation.history.not_requeued or "it requested a requeue, but the job is gone"
    return f"could not be requeued: {reason}; continue it with `cldctl resume`"


@dataclass(frozen=True)
class Row:
    """One row of the table. A cell is empty (any value matches), or lists values: "pending|running".

    Attributes:
        state: what a situation that matches is called; "<after>" for `Situation.after`.
    """

    state: str
    reason: Reason = None
    request: str = ""
    job: str = ""
    attempt: str = ""
    after: str = ""
    phase: str = ""
    end: str = ""
    restarts: str = ""
    back: str = ""
    given_up: str = ""
    stuck: str = ""

    def matches(self, situation: Situation) -> bool:
        cells = ((getattr(self, column), getattr(situation, column)) for column in _COLUMNS)
        return all(not cell or value in cell.split("|") for cell, value in cells)


# The first row that matches decides.
TABLE = (
    Row("FAILED", lambda it: getattr(it.history.request, "reason", None), request="refused"),
    Row("FAILED", _INTERRUPTED, request="stale"),
    Row("PENDING", _submitter, request="open"),
    Row("PENDING", job="none", attempt="none"),
    Row("<after>", _detail, job="none", attempt="ended"),
    Row("LOST", job="none", attempt="open"),
    Row("REQUEUED", _why_it_waits, job="successor", attempt="other", phase=_HERE),
    # Its launcher does not answer: the ledger is all that is known.
    Row("CANCELLED", attempt="none|other", phase="unknown", end="cancelled"),
    Row("PENDING", _why_it_waits, attempt="none|other", phase=_HERE),
    Row("CANCELLED", attempt="none|other", phase="gone", end="cancelled"),
    Row("FAILED", _never_began, attempt="none|other", phase="gone"),
    Row("REQUEUED", _why_it_waits, attempt="open", phase="pending"),
    Row("RUNNING", _warning, attempt="open", phase=_HERE),
    Row("CANCELLED", attempt="open", phase="gone", end="cancelled"),
    Row("FAILED", _launchers_word, attempt="open", phase="gone", end="failed"),
    Row("LOST", _VANISHED, attempt="open", phase="gone", end="quiet"),
    Row("FINISHED", attempt="ended", after="FINISHED"),
    Row(
        "RUNNING", _DECIDING, attempt="ended", after="FAILED", phase="running", restarts="yes", back="no", given_up="no"
    ),
    Row("REQUEUED", _detail_or_wait, attempt="ended", phase="pending"),
    Row("REQUEUED", _detail_or_wait, attempt="ended", phase=_BACK, restarts="yes", back="yes"),
    Row("CANCELLED", attempt="ended", end="cancelled"),
    Row("FAILED", lambda it: it.history.given_up, attempt="ended", given_up="yes"),
    Row("STOPPED", _stuck, attempt="ended", stuck="yes"),
    Row("<after>", _detail, attempt="ended"),
)


def state_of(
    history: History, seen: Callable[[JobRef], Seen], now: float, is_submitting: Callable[[], bool] = lambda: False
) -> tuple[str, str | None]:
    """The state of a run, and if there is something to say about it, why.

    Args:
        seen: what the launcher says about a job.
        now: seconds since 1970.
        is_submitting: whether a process submits a job of this run at this moment.
    """
    situation = situation_of(history, seen, now, is_submitting)
    row = row_of(situation)
    state = situation.after if row.state == "<after>" else row.state
    return state, row.reason(situation) if callable(row.reason) else row.reason


def row_of(situation: Situation) -> Row:
    """The row that decides."""
    return next(row for row in TABLE if row.matches(situation))


def situation_of(
    history: History, seen: Callable[[JobRef], Seen], now: float, is_submitting: Callable[[], bool] = lambda: False
) -> Situation:
    """The columns of the table for a run."""
    last, request = history.last, _request(history, now, is_submitting)
    submitted = history.current(lambda job: seen(job).is_gone)
    after = "" if last is None or last.cause is None else state_after(last.cause)
    if submitted is None:
        attempt = "none" if last is None else "open" if last.cause is None else "ended"
        return Situation(history, None, Seen("unknown"), request, attempt=attempt, after=after)
    job, answer = submitted.job, seen(submitted.job)
    return Situation(
        history,
        job,
        answer,
        request,
        job="first" if submitted.successor_of is None else "successor",
        attempt=_attempt(last, submitted),
        after=after,
        phase=answer.phase,
        end=_end(history, job, answer),
        restarts="yes" if job.restarts else "no",
        back="yes" if _is_back(history, answer) else "no",
        given_up="no" if history.given_up is None else "yes",
        stuck="yes" if _is_stuck(history, answer) else "no",
    )


def _request(history: History, now: float, is_submitting: Callable[[], bool]) -> str:
    if history.request is None:
        return ""
    if isinstance(history.request, Refused):
        return "refused"
    return "stale" if now - history.request.time > SUBMITTING_S and not is_submitting() else "open"


def _attempt(last: Attempt | None, submitted: Submitted) -> str:
    if last is None:
        return "none"
    if last.job_id != submitted.job.job_id:
        return "other"
    return "open" if last.cause is None else "ended"


def _end(history: History, job: JobRef, seen: Seen) -> str:
    last = history.last
    has_ended = last is not None and last.job_id == job.job_id and last.cause is not None
    if seen.ended == "cancelled" or (job.job_id in history.cancelled and not has_ended):
        return "cancelled"
    return "failed" if seen.ended in _FAILURES else "quiet"


def _is_back(history: History, seen: Seen) -> bool:
    last = history.last
    # While the launcher does not answer, it may start the job again, too.
    by_launcher = (
        last is not None and last.cause in RESTARTED_BY_LAUNCHER and seen.phase in ("running", "ending", "unknown")
    )
    return history.requeued is not None or by_launcher


def _is_stuck(history: History, seen: Seen) -> bool:
    """Whether a requeue failed, or one that was asked for was not done before the job was killed."""
    return history.not_requeued is not None or (history.requeued is not None and seen.is_gone)


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
    if isinstance(event, events.GivenUp) and event.never_began:
        return event.time, "gone"
    if isinstance(event, Refused) and event.what == "requeue":
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
