"""The state of a run: a table over its history, what its launcher says, and its files. It knows no
cluster by name."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cld_core.run import RunFolder, events
from cld_core.run.events import (
    CRASHES,
    RESTARTED_BY_LAUNCHER,
    JobRef,
    Refused,
    Requested,
    state_after,
)
from cld_core.run.history import History
from cld_core.run.lease import local_holder
from cldctl import locks
from cldctl.clusters.base import Phase, Seen

from .survey import Answers

# A job follows its request within moments; after this many seconds the submission was interrupted,
# unless its process still works on it.
SUBMITTING_S = 30.0
# All states with the colours in which they are shown, in the order in which they are sorted and
# counted: those first that matter most to somebody who watches.
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
_HERE = "pending|running|suspended|ending|unknown"
_BACK = "running|suspended|ending|unknown"
_VANISHED = "the job is gone without a message: it was killed, or its node failed"
_TOO_LATE = (
    "the time limit killed its job before it could save; only a successor or `cldctl "
    "resume` continues the run"
)
DECIDING = "the attempt failed; its job is deciding whether to start again"
# Seconds in which a job decides what follows a crash.
_DECIDING_S = 30.0


class Situation:
    """The columns of the table, and what reasons are made of. A column without a value is empty.

    Args:
        now: seconds since 1970.

    Attributes:
        run: what its folder says besides the ledger is read only if a row depends on it.
        seen: what is known about a job.
        current: the job that counts, and ``answer``, what is known about it.
        request: of a request that no job or attempt followed, or a ledger that holds nothing:
            "refused", "open", or "stale" after `SUBMITTING_S`; "lost" if the ledger held more.
        job: "none", or whether the current job is the "first" or a "successor" that waited for
            another to fail.
        attempt: of the current job: "none", "open" or "ended"; "other" if the newest belongs to an
            earlier job. Without a job, of the newest attempt.
        after: the state that the cause of an ended attempt leads to.
        phase: of the current job, `Seen.phase`.
        end: how the current job ended: "cancelled", "failed", "late" (at its time limit) or
            "quiet".
        restarts: whether the launcher can start the current job again.
        back: whether it does so after the end of the attempt.
        followed: whether a successor waits for the job's end, and was not turned away.
        given_up: whether a retry budget is spent since then.
        stuck: whether the job ended because it could not put itself back into the queue.
    """

    def __init__(self, run: RunFolder, history: History, answers: Answers, now: float) -> None:
        self.run, self.history = run, history
        self.seen = seen_by(history, answers, now)
        self.request = _request(run, history, now)
        last, submitted = history.last, history.current(lambda job: self.seen(job).is_gone)
        self.attempt = "none" if last is None else "open" if history.cause is None else "ended"
        self.after = "" if history.cause is None else state_after(history.cause)
        self.job = "none"
        self.phase = self.end = ""
        self.current: JobRef | None = None
        self.answer = Seen("unknown")
        self.restarts = self.back = self.followed = self.given_up = self.stuck = False
        if submitted is None or (history.by_other_launcher and self.seen(submitted.job).is_gone):
            return
        self.current = submitted.job
        self.job = "first" if submitted.successor_of is None else "successor"
        self.answer = answer = self.seen(submitted.job)
        if last is not None and last.job_id != submitted.job.job_id:
            self.attempt = "other"
        is_cancelled = submitted.job.job_id in history.cancelled and self.attempt != "ended"
        is_cancelled = is_cancelled or answer.ended == "cancelled"
        self.phase = answer.phase
        ended = (
            "failed"
            if answer.ended in _FAILURES
            else "late"
            if answer.ended == "timeout"
            else "quiet"
        )
        self.end = "cancelled" if is_cancelled else ended
        self.restarts = submitted.job.restarts
        # While the launcher does not answer, it may start the job again, too.
        by_launcher = history.cause in RESTARTED_BY_LAUNCHER
        self.back = history.requeued is not None or (
            by_launcher and self.phase in ("running", "ending", "unknown")
        )
        self.followed = any(
            job.job_id not in history.turned_away and self.seen(job).phase == "pending"
            for job in history.successors_of(submitted.job.job_id)
        )
        self.given_up = history.given_up is not None
        # A requeue failed, or one that was asked for was not done before the job was killed.
        self.stuck = history.not_requeued is not None or (
            history.requeued is not None and answer.is_gone
        )

    @functools.cached_property
    def owner(self) -> Mapping[str, Any] | None:
        """The process of this machine that writes into the run: started without cldctl, or orphaned
        by it."""
        return local_holder(self.run.leases)

    @property
    def writer(self) -> bool:
        return self.owner is not None

    @property
    def left_over(self) -> list[str]:
        """The jobs that were turned away and wait nevertheless."""
        turned_away = [
            event.job
            for event in self.history.submitted
            if event.job.job_id in self.history.turned_away
        ]
        return [job.job_id for job in turned_away if self.seen(job).phase == "pending"]


# A text, or how it is made from the situation.
Reason = str | Callable[[Situation], str | None] | None


def _submitter(situation: Situation) -> str | None:
    request = situation.history.request
    if not isinstance(request, Requested) or request.host is None:
        return None
    return f"being submitted by process {request.pid} on {request.host}"


def _interrupted(situation: Situation) -> str:
    return (
        f"the submission was interrupted before it got a job; `cldctl resume "
        f"{situation.run.name}` asks for one"
    )


def _lost(situation: Situation) -> str:
    run, saved = situation.run, situation.run.steps_to_continue_from()
    again = f"continues from the checkpoint of step {saved[-1]}" if saved else "begins again"
    lost = "without the keys that earlier continuations changed"
    return f"its ledger attempts.jsonl is {_how(run)}; `cldctl resume {run.name}` {again}, {lost}"


def _how(run: RunFolder) -> str:
    """What is wrong with a ledger of which no line could be read."""
    try:
        return "damaged" if run.ledger.path.lstat().st_size else "empty"
    except OSError:
        return "missing"


def _writer(situation: Situation) -> str | None:
    owner = situation.owner
    return (
        None
        if owner is None
        else f"process {owner['pid']} on this machine writes into it (job {owner['job_id']})"
    )


def _never_began(situation: Situation) -> str | None:
    assert situation.current is not None, "a job that did not begin"
    word = f" (its launcher says {situation.answer.word})" if situation.answer.word else ""
    unexplained = f"the job ended before it began{word}; see `cldctl logs {situation.run.name}`"
    return situation.history.not_begun.get(situation.current.job_id, unexplained)


def _warning(situation: Situation) -> str | None:
    if situation.phase == "suspended":
        return situation.answer.reason or "suspended"
    last = situation.history.last
    return None if last is None else last.warning


def _launchers_word(situation: Situation) -> str | None:
    return (
        f"its launcher says {situation.answer.word or situation.answer.ended}; see `cldctl "
        f"logs "
        f"{situation.run.name}`"
    )


def _detail(situation: Situation) -> str | None:
    last = situation.history.last
    if last is not None and last.cause == "killed" and last.noted_end:
        return "its job was killed"
    return last.detail if last is not None and situation.after == "FAILED" else None


def _detail_or_waits(situation: Situation) -> str | None:
    return _detail(situation) or situation.answer.reason or None


def _stuck(situation: Situation) -> str | None:
    if (reason := situation.history.not_requeued) is not None:
        return f"could not be requeued: {reason}; continue it with `cldctl resume`"
    how = "it was killed before that, or ended before it trained again"
    return (
        f"its job asked to be requeued, and is gone: {how}; see `cldctl logs`, or continue it "
        f"with `cldctl resume`"
    )


class Row:
    """One row of the table. A cell that is not named matches any value; a text lists values:
    "pending|running".

    Args:
        state: what a situation that matches is called; "<after>" for `Situation.after`.
    """

    def __init__(self, state: str, reason: Reason = None, **cells: str | bool) -> None:
        self.state, self.reason = state, reason
        self._cells = {
            name: cell.split("|") if isinstance(cell, str) else [cell]
            for name, cell in cells.items()
        }

    def matches(self, situation: Situation) -> bool:
        return all(getattr(situation, column) in values for column, values in self._cells.items())


def _waits(situation: Situation) -> str | None:
    return situation.answer.reason or None


# The first row that matches decides.
TABLE = (
    Row("RUNNING", _writer, request="refused|stale|lost", writer=True),
    Row("FAILED", lambda it: getattr(it.history.request, "reason", None), request="refused"),
    Row("FAILED", _interrupted, request="stale"),
    Row("LOST", _lost, request="lost"),
    Row("PENDING", _submitter, request="open"),
    Row("PENDING", job="none", attempt="none"),
    Row("FINISHED", attempt="ended", after="FINISHED"),
    Row("REQUEUED", _waits, job="successor", attempt="other", phase=_HERE),
    Row("PENDING", _waits, attempt="none|other", phase="pending|running|suspended|ending"),
    # Its launcher does not answer: the ledger is all that is known.
    Row("PENDING", _waits, attempt="none|other", phase="unknown", end="failed|quiet"),
    Row("REQUEUED", _waits, attempt="open", phase="pending"),
    Row("RUNNING", _warning, attempt="open", phase=_HERE),
    Row(
        "RUNNING",
        DECIDING,
        attempt="ended",
        after="FAILED",
        phase="running",
        restarts=True,
        back=False,
        given_up=False,
    ),
    Row("REQUEUED", _detail_or_waits, attempt="ended", phase="pending"),
    Row("REQUEUED", _detail_or_waits, attempt="ended", phase=_BACK, restarts=True, back=True),
    Row(
        "REQUEUED",
        _detail,
        attempt="ended",
        after="STOPPED|LOST|FAILED",
        phase="ending",
        followed=True,
        given_up=False,
    ),
    Row("RUNNING", _writer, writer=True),
    Row("CANCELLED", end="cancelled"),
    Row("FAILED", _never_began, attempt="none|other"),
    Row("LOST", job="none", attempt="open"),
    Row("FAILED", _launchers_word, attempt="open", end="failed"),
    Row("STOPPED", _TOO_LATE, attempt="open", end="late"),
    Row("LOST", _VANISHED, attempt="open"),
    Row("FAILED", lambda it: it.history.given_up, given_up=True),
    Row("STOPPED", _stuck, stuck=True),
    Row("<after>", _detail),
)


def state_of(situation: Situation) -> tuple[str, str | None]:
    """The state of a run, and if there is something to say about it, why."""
    row = row_of(situation)
    state = situation.after if row.state == "<after>" else row.state
    if state in OVER and (left_over := situation.left_over):
        waits = f"job {', '.join(left_over)} still waits, with nothing to do"
        return state, f"{waits}: `cldctl cancel {situation.run.name}`"
    return state, row.reason(situation) if callable(row.reason) else row.reason


def row_of(situation: Situation) -> Row:
    """The row that decides."""
    return next(row for row in TABLE if row.matches(situation))


def _request(run: RunFolder, history: History, now: float) -> str:
    request, is_empty = (
        history.request,
        not (history.request or history.submitted or history.attempts),
    )
    if isinstance(request, Refused):
        return "refused"
    if request is None and not is_empty:
        return ""
    was_more = is_empty and bool(run.checkpoint_steps() or run.progress())
    begun = run.identity().get("created", 0.0) if request is None else request.time
    if not (was_more or now - begun > SUBMITTING_S) or locks.is_starting(run):
        return "open"
    return "lost" if was_more else "stale"


def seen_by(history: History, answers: Answers, now: float) -> Callable[[JobRef], Seen]:
    """What is known about a job at ``now``: the answer of its launcher, unless the ledger has heard
    of it since.

    An answer that was asked for at this moment counts, whatever the ledger's clock says.
    """

    def seen(job: JobRef) -> Seen:
        answer, as_of = answers.of(job), answers.as_of(job.cluster)
        if as_of is None:
            return answer
        when, phase = _last_heard(history, job, now)
        return answer if phase is None or when <= as_of else _updated(answer, phase)

    return seen


def _last_heard(history: History, job: JobRef, now: float) -> tuple[float, Phase | None]:
    """When the ledger last heard of a job, and the phase that follows from that; None if none
    follows."""
    last, event, requeued = history.last, history.last_of.get(job.job_id), history.requeued
    mine = last if last is not None and last.job_id == job.job_id else None
    if isinstance(event, events.GivenUp) and event.never_began:
        return event.time, "gone"
    if isinstance(event, Refused) and event.what == "requeue":
        return event.time, "ending"
    if (
        requeued is not None
        and requeued.job_id == job.job_id
        and (mine is None or history.was_requeued(mine))
    ):
        return requeued.time, "pending"
    if mine is None:
        # That it was submitted: whether it waits or runs, nobody has said.
        return (event.time, "unknown") if isinstance(event, events.Submitted) else (0.0, None)
    if mine.cause is None:
        return mine.started, "running"
    ended = mine.ended or mine.started
    may_go_on = mine.cause in RESTARTED_BY_LAUNCHER or (
        mine.cause in CRASHES and now - ended < _DECIDING_S
    )
    return ended, "running" if may_go_on else "ending"


def _updated(answer: Seen, phase: Phase) -> Seen:
    """An answer that is older than what is known now."""
    if answer.phase == phase:
        return answer
    if phase == "unknown":
        return (
            answer
            if answer.phase in ("pending", "running")
            else Seen("unknown", reason=answer.reason)
        )
    if phase == "running" and answer.phase in ("suspended", "ending"):
        return answer
    node = answer.node if phase in ("running", "ending") else ""
    return replace(Seen(phase), node=node)
