"""The state of a run: a table over its history, the answers of its launcher, and its files.

It knows no cluster by name.
"""

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
# counted: first those that matter most when runs are watched.
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
    "the time limit killed its job before it could save; "
    "only a successor or `cldctl resume` continues the run"
)
DECIDING = "the attempt failed; its job is deciding whether to start again"
# Seconds in which a job decides what follows a crash.
_DECIDING_S = 30.0


class Situation:
    """The columns of the table, and what reasons are made of. A column without a value is empty.

    Args:
        now: seconds since 1970.

    Attributes:
        run: its files besides the ledger are read only if a row depends on them.
        seen: returns what is known about a job.
        current: the job that decides.
        answer: what is known about it.
        request: of a request that no job or attempt followed, or of an empty ledger: "refused",
            "open", or "stale" after `SUBMITTING_S`; "lost" if the ledger held more.
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
        self.run = run
        self.history = history
        self.seen = seen_by(history, answers, now)
        self.request = _request(run, history, now)
        self.attempt = "none"
        self.after = ""
        last = history.last
        if history.cause is not None:
            self.attempt = "ended"
            self.after = state_after(history.cause)
        elif last is not None:
            self.attempt = "open"
        self.current: JobRef | None = None
        self.answer = Seen("unknown")
        self.job = "none"
        self.phase = ""
        self.end = ""
        self.restarts = False
        self.back = False
        self.followed = False
        self.given_up = False
        self.stuck = False
        submitted = history.current(lambda job: self.seen(job).is_gone)
        if submitted is None or (history.by_other_launcher and self.seen(submitted.job).is_gone):
            return
        job = submitted.job
        answer = self.seen(job)
        self.current = job
        self.answer = answer
        self.job = "first" if submitted.successor_of is None else "successor"
        self.phase = answer.phase
        self.restarts = job.restarts
        if last is not None and last.job_id != job.job_id:
            self.attempt = "other"
        was_cancelled = job.job_id in history.cancelled and self.attempt != "ended"
        if was_cancelled or answer.ended == "cancelled":
            self.end = "cancelled"
        elif answer.ended in _FAILURES:
            self.end = "failed"
        elif answer.ended == "timeout":
            self.end = "late"
        else:
            self.end = "quiet"
        # A launcher that does not answer may start the job again, too.
        by_launcher = history.cause in RESTARTED_BY_LAUNCHER
        by_launcher = by_launcher and self.phase in ("running", "ending", "unknown")
        self.back = by_launcher or history.requeued is not None
        self.followed = any(
            successor.job_id not in history.turned_away and self.seen(successor).phase == "pending"
            for successor in history.successors_of(job.job_id)
        )
        self.given_up = history.given_up is not None
        # A requeue failed, or was requested and not done before the job was killed.
        was_killed = history.requeued is not None and answer.is_gone
        self.stuck = was_killed or history.not_requeued is not None

    @functools.cached_property
    def owner(self) -> Mapping[str, Any] | None:
        """The process of this machine that writes into the run.

        It was started without cldctl, or its job is gone.
        """
        return local_holder(self.run.leases)

    @property
    def writer(self) -> bool:
        return self.owner is not None

    @property
    def left_over(self) -> list[str]:
        """The jobs that were turned away and still wait in the queue."""
        jobs = [event.job for event in self.history.submitted]
        turned_away = self.history.turned_away
        return [
            job.job_id
            for job in jobs
            if job.job_id in turned_away and self.seen(job).phase == "pending"
        ]


# A text, or how it is made from the situation.
Reason = str | Callable[[Situation], str | None] | None


def _submitter(situation: Situation) -> str | None:
    request = situation.history.request
    if not isinstance(request, Requested) or request.host is None:
        return None
    return f"being submitted by process {request.pid} on {request.host}"


def _interrupted(situation: Situation) -> str:
    return (
        f"the submission was interrupted before it got a job; "
        f"`cldctl resume {situation.run.name}` asks for one"
    )


def _lost(situation: Situation) -> str:
    run = situation.run
    saved = run.steps_to_continue_from()
    again = f"continues from the checkpoint of step {saved[-1]}" if saved else "begins again"
    return (
        f"its ledger attempts.jsonl is {_how(run)}; `cldctl resume {run.name}` {again}, "
        f"without the keys that earlier continuations changed"
    )


def _how(run: RunFolder) -> str:
    """What is wrong with a ledger of which no line could be read."""
    try:
        return "damaged" if run.ledger.path.lstat().st_size else "empty"
    except OSError:
        return "missing"


def _writer(situation: Situation) -> str | None:
    owner = situation.owner
    if owner is None:
        return None
    return f"process {owner['pid']} on this machine writes into it (job {owner['job_id']})"


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
    answer = situation.answer
    return (
        f"its launcher says {answer.word or answer.ended}; see `cldctl logs {situation.run.name}`"
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
    return (
        "its job asked to be requeued, and is gone: it was killed before that, or ended before it "
        "trained again; see `cldctl logs`, or continue it with `cldctl resume`"
    )


class Row:
    """One row of the table.

    Args:
        name: the kind of situation that it matches.
        state: the state of a run in such a situation; "<after>" for `Situation.after`.
        cells: by column, the values that match, such as "pending|running"; a column without a cell
            matches any value.
    """

    def __init__(self, name: str, state: str, reason: Reason = None, **cells: str | bool) -> None:
        self.name = name
        self.state = state
        self.reason = reason
        self._cells = {
            column: cell.split("|") if isinstance(cell, str) else [cell]
            for column, cell in cells.items()
        }

    def matches(self, situation: Situation) -> bool:
        return all(getattr(situation, column) in values for column, values in self._cells.items())


def _waits(situation: Situation) -> str | None:
    return situation.answer.reason or None


# The first row that matches decides.
TABLE = (
    Row("process, no job", "RUNNING", _writer, request="refused|stale|lost", writer=True),
    Row(
        "refused",
        "FAILED",
        lambda it: getattr(it.history.request, "reason", None),
        request="refused",
    ),
    Row("interrupted", "FAILED", _interrupted, request="stale"),
    Row("ledger lost", "LOST", _lost, request="lost"),
    Row("being submitted", "PENDING", _submitter, request="open"),
    Row("no job", "PENDING", job="none", attempt="none"),
    Row("finished", "FINISHED", attempt="ended", after="FINISHED"),
    Row("successor waits", "REQUEUED", _waits, job="successor", attempt="other", phase=_HERE),
    Row(
        "waits to begin",
        "PENDING",
        _waits,
        attempt="none|other",
        phase="pending|running|suspended|ending",
    ),
    # Its launcher does not answer: the ledger is all that is known.
    Row(
        "not begun, launcher silent",
        "PENDING",
        _waits,
        attempt="none|other",
        phase="unknown",
        end="failed|quiet",
    ),
    Row("waits to start again", "REQUEUED", _waits, attempt="open", phase="pending"),
    Row("trains", "RUNNING", _warning, attempt="open", phase=_HERE),
    Row(
        "deciding",
        "RUNNING",
        DECIDING,
        attempt="ended",
        after="FAILED",
        phase="running",
        restarts=True,
        back=False,
        given_up=False,
    ),
    Row("requeued", "REQUEUED", _detail_or_waits, attempt="ended", phase="pending"),
    Row(
        "about to be requeued",
        "REQUEUED",
        _detail_or_waits,
        attempt="ended",
        phase=_BACK,
        restarts=True,
        back=True,
    ),
    Row(
        "successor follows",
        "REQUEUED",
        _detail,
        attempt="ended",
        after="STOPPED|LOST|FAILED",
        phase="ending",
        followed=True,
        given_up=False,
    ),
    Row("process without job", "RUNNING", _writer, writer=True),
    Row("cancelled", "CANCELLED", end="cancelled"),
    Row("never began", "FAILED", _never_began, attempt="none|other"),
    Row("attempt without job", "LOST", job="none", attempt="open"),
    Row("launcher saw it fail", "FAILED", _launchers_word, attempt="open", end="failed"),
    Row("time limit", "STOPPED", _TOO_LATE, attempt="open", end="late"),
    Row("vanished", "LOST", _VANISHED, attempt="open"),
    Row("given up", "FAILED", lambda it: it.history.given_up, given_up=True),
    Row("not requeued", "STOPPED", _stuck, stuck=True),
    Row("ended", "<after>", _detail),
)


def state_of(situation: Situation) -> tuple[str, str | None]:
    """The state of a run, and a reason for it if there is one."""
    row = row_of(situation)
    state = situation.after if row.state == "<after>" else row.state
    if state in OVER and (left_over := situation.left_over):
        return state, (
            f"job {', '.join(left_over)} still waits, with nothing to do: "
            f"`cldctl cancel {situation.run.name}`"
        )
    return state, row.reason(situation) if callable(row.reason) else row.reason


def row_of(situation: Situation) -> Row:
    """The row that decides."""
    return next(row for row in TABLE if row.matches(situation))


def _request(run: RunFolder, history: History, now: float) -> str:
    """The column ``request`` of a `Situation`."""
    request = history.request
    if isinstance(request, Refused):
        return "refused"
    was_more = False
    if request is not None:
        begun = request.time
    elif history.submitted or history.attempts:
        return ""
    else:
        begun = run.identity().get("created", 0.0)
        was_more = bool(run.checkpoint_steps() or run.progress())
    is_recent = now - begun <= SUBMITTING_S and not was_more
    if is_recent or locks.is_starting(run):
        return "open"
    return "lost" if was_more else "stale"


def seen_by(history: History, answers: Answers, now: float) -> Callable[[JobRef], Seen]:
    """Return a function of a job: what is known about it at ``now``.

    That is the answer of its launcher, unless the ledger has a later event. An answer of this very
    moment counts, whatever the ledger's clock says.
    """

    def seen(job: JobRef) -> Seen:
        answer = answers.of(job)
        as_of = answers.as_of(job.cluster)
        if as_of is None:
            return answer
        when, phase = _by_ledger(history, job, now)
        return answer if phase is None or when <= as_of else _updated(answer, phase)

    return seen


def _by_ledger(history: History, job: JobRef, now: float) -> tuple[float, Phase | None]:
    """The time of the last event of a job, and the phase that follows from it, if one does."""
    last = history.last
    event = history.last_of.get(job.job_id)
    requeued = history.requeued
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
        # It was submitted: whether it waits or runs is unknown.
        return (event.time, "unknown") if isinstance(event, events.Submitted) else (0.0, None)
    if mine.cause is None:
        return mine.started, "running"
    ended = mine.ended or mine.started
    is_deciding = mine.cause in CRASHES and now - ended < _DECIDING_S
    if is_deciding or mine.cause in RESTARTED_BY_LAUNCHER:
        return ended, "running"
    return ended, "ending"


def _updated(answer: Seen, phase: Phase) -> Seen:
    """An answer brought up to date with a later phase."""
    if answer.phase == phase:
        return answer
    if phase == "unknown":
        if answer.phase in ("pending", "running"):
            return answer
        return Seen("unknown", reason=answer.reason)
    if phase == "running" and answer.phase in ("suspended", "ending"):
        return answer
    node = answer.node if phase in ("running", "ending") else ""
    return replace(Seen(phase), node=node)
