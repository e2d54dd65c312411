"""The state of a work: one table over its ledger, its files, and the answers of launchers.

`state_of` is the only place that decides it. Trainings have eight states. Sharded works, which are
evaluations, tunings and statistics, have four of them; many jobs may compute one. Commands ask the
launchers first (`cldctl.runs.survey`); without their answers, the ledger alone decides.
"""

import contextlib
import fcntl
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from cld_core.files import opened
from cld_core.records import record

from .events import (
    CRASHES,
    RESTARTED_BY_LAUNCHER,
    Cause,
    GivenUp,
    JobRef,
    Refused,
    Requested,
    Submitted,
    state_after,
)
from .folder import RunFolder
from .groups import Group
from .history import History, array_of
from .lease import local_holder
from .shards import ShardedWork
from .work import Work

# Seconds after which a request without a job counts as interrupted, unless its process is still
# submitting it.
SUBMITTING_S = 30.0
# In the order in which they are sorted and counted: those that matter most to a user first.
STATES = (
    "RUNNING",
    "REQUEUED",
    "PENDING",
    "FAILED",
    "LOST",
    "STOPPED",
    "CANCELLED",
    "FINISHED",
)
# The states of runs that wait for their job to begin, and of all that are alive.
WAITS = ("REQUEUED", "PENDING")
ALIVE = ("RUNNING", *WAITS)
RESUMABLE = frozenset({"STOPPED", "FAILED", "CANCELLED", "LOST"})
OVER = RESUMABLE | {"FINISHED"}

DECIDING = "the attempt failed; its job is deciding whether to start again"
_TOO_LATE = (
    "the time limit killed its job before it could save; only a successor or `cldctl resume` "
    "continues the run"
)
_VANISHED = "the job is gone without a message: it was killed, or its node failed"
# Seconds in which a job decides what follows a crash.
_DECIDING_S = 30.0
_FAILURES = ("crashed", "out_of_memory")
# Taken by a process while it starts jobs in a folder.
LOCK = ".submit.lock"
# Folders whose lock this process holds.
locked_here: set[Path] = set()

Phase = Literal["pending", "running", "suspended", "ending", "gone", "unknown"]


@dataclass(frozen=True)
class Answer:
    """What a launcher says about a job.

    Attributes:
        ended: how the job ended, as a cause of the ledger, if the launcher says so.
        node: where the job runs, or ran.
        reason: why the job waits, or why nothing is known about it ("started on HOST", for a job of
            another machine).
        word: the launcher's own word for the state, which is only shown.
    """

    phase: Phase
    ended: Cause | None = None
    node: str = ""
    reason: str = ""
    word: str = ""

    @property
    def is_gone(self) -> bool:
        return self.phase == "gone"


class LauncherAnswers(Protocol):
    """What launchers say about many jobs."""

    def of(self, job: JobRef) -> Answer:
        """The answer about a job; its phase is "unknown" if there is none."""

    def as_of(self, cluster: str) -> float | None:
        """When a cluster answered, seconds since 1970; None if the answers are of this moment."""


class NoAnswers:
    """The answers of commands that ask no launcher."""

    def of(self, job: JobRef) -> Answer:
        return Answer("unknown")

    def as_of(self, cluster: str) -> float | None:
        return None


@record
class State:
    """What a work is doing.

    Attributes:
        name: one of `STATES`.
        reason: why, in a sentence, if there is something to say.
        cause: why a sharded work stands still, in one or two words.
        job: the current job of a training (`History.current`); None without one.
        answer: the launcher's answer about that job.
    """

    name: str
    reason: str | None = None
    cause: str | None = None
    job: JobRef | None = None
    answer: Answer = Answer("unknown")


# --- what files say


class RunFacts:
    """What the files of a training say beside its ledger. They are read when a rule needs them."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.name = run.name

    @functools.cached_property
    def owner(self) -> Mapping[str, Any] | None:
        """The process of this machine that writes into the run."""
        return local_holder(self.run.leases)


class ShardedFacts:
    """What the files of a sharded work say beside its ledger.

    Args:
        is_done: whether the product exists, if the caller knows.
    """

    def __init__(self, work: Work, is_done: bool | None = None) -> None:
        self.work = work
        self.name = work.name
        if is_done is not None:
            self.is_done = is_done

    @functools.cached_property
    def is_done(self) -> bool:
        return self.work.is_done

    @functools.cached_property
    def missing(self) -> list[int]:
        """The pieces that are not complete."""
        return [] if self.is_done else self.work.missing()

    @functools.cached_property
    def progress(self) -> tuple[int, int, str]:
        """How much is complete, the total, and the unit of both."""
        if isinstance(self.work, ShardedWork):
            shards = self.work.request.shards
            return shards - len(self.missing), shards, "shards"
        return *self.work.rows_done(), self.work.unit


def is_locked(folder: Path) -> bool:
    """Whether another process starts jobs in a folder at this moment."""
    if folder in locked_here:
        return False
    # A lock file that is missing or unreadable holds no lock that this process could see.
    try:
        with opened(folder / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def is_starting(run: RunFolder) -> bool:
    """Whether another process starts jobs of a run, or of its group, at this moment."""
    if is_locked(run.path):
        return True
    group = Group.of(run)
    return group is not None and is_locked(group.path)


def living(history: History, answers: LauncherAnswers) -> list[Submitted]:
    """The submissions whose jobs are not gone."""
    return [event for event in history.submitted if not answers.of(event.job).is_gone]


def without_job(history: History, pieces: Sequence[int], answers: LauncherAnswers) -> list[int]:
    """The pieces of a sharded work, out of ``pieces``, that no living job computes."""
    claimed = {piece for event in living(history, answers) for piece in event.shards or ()}
    return [piece for piece in pieces if piece not in claimed]


# --- the situation


class Situation:
    """The columns of the table, and what reasons are made of. A column without a value is empty.

    Args:
        now: seconds since 1970.

    Attributes:
        current: the current job of a training (`History.current`).
        answer: what is known about that job.
        sharded: whether the work is sharded; then only ``done``, ``phase`` and ``moved`` have
            values, and otherwise neither ``done`` nor ``moved``.
        done: whether the product of a sharded work exists.
        moved: whether rows were written since the launchers answered.
        request: "refused", "open", or "stale" after `SUBMITTING_S`, if no job or attempt followed
            the last request, or the ledger is empty; "lost" if the ledger is empty although files
            show that the run has trained.
        job: "none", or whether the current job is the "first" or a "successor" that waited for
            another to fail.
        attempt: "none", "open" or "ended", for the attempt of the current job, or without a job for
            the newest attempt; "other" if the newest attempt belongs to an earlier job.
        after: the state that the cause of an ended attempt leads to.
        phase: `Answer.phase` of the current job; with several jobs, that of the most alive.
        end: how the current job ended: "cancelled", "failed", "late" (at its time limit) or
            "quiet".
        restarts: whether the launcher can start the current job again.
        back: whether the launcher does so after the end of the attempt.
        followed: whether a successor waits for the current job's end, and was not turned away.
        given_up: whether the run was given up after the attempt.
        stuck: whether the current job ended because it could not be requeued.
    """

    current: JobRef | None = None
    answer = Answer("unknown")
    done = False
    moved = False
    request = ""
    job = "none"
    attempt = ""
    after = ""
    phase: Phase | Literal[""] = ""
    end = ""
    restarts = False
    back = False
    followed = False
    given_up = False
    stuck = False

    def __init__(
        self,
        history: History,
        facts: RunFacts | ShardedFacts,
        answers: LauncherAnswers,
        now: float,
    ) -> None:
        self.history = history
        self.facts = facts
        self.answers = answers
        self.now = now
        self.sharded = isinstance(facts, ShardedFacts)
        if isinstance(facts, ShardedFacts):
            self._join_answers(facts)
        else:
            self.request = _request(history, facts.run, now)
            self._describe_attempt()
            self._describe_job()

    def _join_answers(self, facts: ShardedFacts) -> None:
        self.done = facts.is_done
        if self.done:
            return
        jobs = [event.job for event in self.history.submitted]
        phases = {self.answers.of(job).phase for job in jobs}
        if phases & {"running", "suspended", "ending"}:
            self.phase = "running"
        elif phases & {"pending", "unknown"}:
            self.phase = "pending"
            # A job may have begun, and written rows, since the launchers answered.
            times = [self.answers.as_of(job.cluster) for job in jobs]
            newest = max((time for time in times if time is not None), default=None)
            self.moved = newest is not None and (facts.work.moved_at() or 0.0) > newest
        else:
            self.phase = "gone"

    def _describe_attempt(self) -> None:
        history = self.history
        if history.last is None:
            self.attempt = "none"
        elif history.cause is None:
            self.attempt = "open"
        else:
            self.attempt = "ended"
            self.after = state_after(history.cause)

    def _describe_job(self) -> None:
        history = self.history
        submitted = history.current(lambda job: self.answer_of(job).is_gone)
        if submitted is None:
            return
        job = submitted.job
        answer = self.answer_of(job)
        if history.by_other_launcher and answer.is_gone:
            return
        self.current = job
        self.answer = answer
        self.phase = answer.phase
        self.job = "first" if submitted.successor_of is None else "successor"
        if history.last is not None and history.last.job_id != job.job_id:
            self.attempt = "other"
        self.end = self._end_of(job, answer)
        self.restarts = job.restarts
        is_restarted = history.cause in RESTARTED_BY_LAUNCHER
        # A launcher that does not answer ("unknown") may start the job again, too.
        may_restart = self.phase in ("running", "ending", "unknown")
        self.back = history.requeued is not None or (is_restarted and may_restart)
        self.followed = any(
            successor.job_id not in history.turned_away
            and self.answer_of(successor).phase == "pending"
            for successor in history.successors_of(job.job_id)
        )
        self.given_up = history.given_up is not None
        # The launcher refused a requeue, or the job was killed before its requeue was carried out.
        is_lost = history.requeued is not None and answer.is_gone
        self.stuck = history.not_requeued is not None or is_lost

    def _end_of(self, job: JobRef, answer: Answer) -> str:
        is_cancelled = job.job_id in self.history.cancelled and self.attempt != "ended"
        if is_cancelled or answer.ended == "cancelled":
            return "cancelled"
        if answer.ended in _FAILURES:
            return "failed"
        return "late" if answer.ended == "timeout" else "quiet"

    def answer_of(self, job: JobRef) -> Answer:
        """The answer of a job's launcher, updated if the ledger has later news.

        An answer of this moment is not updated, even if the ledger has later times.
        """
        answer = self.answers.of(job)
        as_of = self.answers.as_of(job.cluster)
        if as_of is None:
            return answer
        noted, phase = _last_news(self.history, job, self.now)
        return answer if phase is None or noted <= as_of else _updated(answer, phase)

    @property
    def owner(self) -> Mapping[str, Any] | None:
        """The process of this machine that writes into the run."""
        return self.facts.owner if isinstance(self.facts, RunFacts) else None

    @property
    def writer(self) -> bool:
        """Whether there is an ``owner``."""
        return self.owner is not None

    @property
    def left_over(self) -> list[str]:
        """The jobs that were turned away and wait nevertheless."""
        turned_away = self.history.turned_away
        jobs = [event.job for event in self.history.submitted if event.job.job_id in turned_away]
        return [job.job_id for job in jobs if self.answer_of(job).phase == "pending"]


def _request(history: History, run: RunFolder, now: float) -> str:
    """The column ``request``."""
    request = history.request
    is_empty = not (request or history.submitted or history.attempts)
    if isinstance(request, Refused):
        return "refused"
    if request is None and not is_empty:
        return ""
    has_trained = is_empty and bool(run.checkpoint_steps() or run.progress())
    began = run.identity().get("created", 0.0) if request is None else request.time
    is_recent = not has_trained and now - began <= SUBMITTING_S
    if is_recent or is_starting(run):
        return "open"
    return "lost" if has_trained else "stale"


def _last_news(history: History, job: JobRef, now: float) -> tuple[float, Phase | None]:
    """When the ledger last had news of a job, and the phase that they imply, if they imply one."""
    event = history.last_of.get(job.job_id)
    if isinstance(event, GivenUp) and event.never_began:
        return event.time, "gone"
    if isinstance(event, Refused) and event.what == "requeue":
        return event.time, "ending"
    last = history.last
    attempt = last if last is not None and last.job_id == job.job_id else None
    requeued = history.requeued
    is_requeued = attempt is None or history.was_requeued(attempt)
    if requeued is not None and requeued.job_id == job.job_id and is_requeued:
        return requeued.time, "pending"
    if attempt is None:
        # It was submitted; whether it waits or runs is unknown.
        return (event.time, "unknown") if isinstance(event, Submitted) else (0.0, None)
    if attempt.cause is None:
        return attempt.started, "running"
    ended = attempt.ended or attempt.started
    is_deciding = attempt.cause in CRASHES and now - ended < _DECIDING_S
    if is_deciding or attempt.cause in RESTARTED_BY_LAUNCHER:
        return ended, "running"
    return ended, "ending"


def _updated(answer: Answer, phase: Phase) -> Answer:
    """An older answer, with the phase that the ledger implies."""
    if answer.phase == phase:
        return answer
    if phase == "unknown":
        if answer.phase in ("pending", "running"):
            return answer
        return Answer("unknown", reason=answer.reason)
    if phase == "running" and answer.phase in ("suspended", "ending"):
        return answer
    node = answer.node if phase in ("running", "ending") else ""
    return replace(Answer(phase), node=node)


# --- reasons

Reason = str | Callable[[Situation], str | None]


def _refused(situation: Situation) -> str | None:
    return getattr(situation.history.request, "reason", None)


def _submitter(situation: Situation) -> str | None:
    request = situation.history.request
    if not isinstance(request, Requested) or request.host is None:
        return None
    return f"being submitted by process {request.pid} on {request.host}"


def _interrupted(situation: Situation) -> str:
    return (
        "the submission was interrupted before it got a job; "
        f"`cldctl resume {situation.facts.name}` asks for one"
    )


def _lost(situation: Situation) -> str:
    assert isinstance(situation.facts, RunFacts), "only a training has steps"
    run = situation.facts.run
    problem = "missing"
    with contextlib.suppress(OSError):
        problem = "damaged" if run.ledger.path.lstat().st_size else "empty"
    again = "begins again"
    if steps := run.steps_to_continue_from():
        again = f"continues from the checkpoint of step {steps[-1]}"
    return (
        f"its ledger attempts.jsonl is {problem}; `cldctl resume {run.name}` {again}, "
        "without the keys that earlier continuations changed"
    )


def _writer(situation: Situation) -> str | None:
    owner = situation.owner
    if owner is None:
        return None
    return f"process {owner['pid']} on this machine writes into it (job {owner['job_id']})"


def _waits(situation: Situation) -> str | None:
    return situation.answer.reason or None


def _never_began(situation: Situation) -> str | None:
    assert situation.current is not None, "a job that did not begin"
    reason = situation.history.not_begun.get(situation.current.job_id)
    if reason is not None:
        return reason
    word = f" (its launcher says {situation.answer.word})" if situation.answer.word else ""
    return f"the job ended before it began{word}; see `cldctl logs {situation.facts.name}`"


def _warning(situation: Situation) -> str | None:
    if situation.phase == "suspended":
        return situation.answer.reason or "suspended"
    last = situation.history.last
    return None if last is None else last.warning


def _launchers_word(situation: Situation) -> str:
    word = situation.answer.word or situation.answer.ended
    return f"its launcher says {word}; see `cldctl logs {situation.facts.name}`"


def _detail(situation: Situation) -> str | None:
    last = situation.history.last
    if last is not None and last.cause == "killed" and last.noted_end:
        return "its job was killed"
    return last.detail if last is not None and situation.after == "FAILED" else None


def _detail_or_waits(situation: Situation) -> str | None:
    return _detail(situation) or _waits(situation)


def _given_up(situation: Situation) -> str | None:
    return situation.history.given_up


def _stuck(situation: Situation) -> str:
    reason = situation.history.not_requeued
    if reason is not None:
        return f"could not be requeued: {reason}; continue it with `cldctl resume`"
    return (
        "its job asked to be requeued, and is gone: it was killed before that, or ended before it "
        "trained again; see `cldctl logs`, or continue it with `cldctl resume`"
    )


def _without_job(situation: Situation) -> str | None:
    """A sentence on pieces of a sharded work that have no job, although others are computed."""
    facts = situation.facts
    assert isinstance(facts, ShardedFacts), "only sharded works have pieces without a job"
    pieces = without_job(situation.history, facts.missing, situation.answers)
    if not pieces:
        return None
    _, total, unit = facts.progress
    return f"{len(pieces)} of {total} {unit} have no job; re-run the same `{facts.work.command}`"


def why_stopped(history: History, facts: ShardedFacts) -> tuple[str, str] | None:
    """Why a sharded work stands still, in one or two words and in a sentence.

    None if the work was never started.
    """
    if not history.submitted:
        return None
    command = facts.work.command
    done, total, unit = facts.progress
    failed = history.task_failed
    if history.given_up is not None:
        if done == total:
            return "not merged", history.given_up
        if not history.crashes:
            return "failed", history.given_up
        last = "" if failed is None else f"; the last one: {failed.reason}"
        return "crashed", f"{history.given_up}{last}"
    if history.not_requeued is not None:
        return "not requeued", f"a task could not be requeued: {history.not_requeued}"
    array = array_of(history.submitted[-1].job.job_id)
    if any(array_of(job_id) == array for job_id in history.cancelled):
        return "cancelled", "cancelled"
    if done == total and failed is not None:
        return "not merged", (
            f"all {unit} are complete, but they were not merged: {failed.reason}; fix that, then "
            f"re-run the same `{command}`"
        )
    if done == total:
        return "not merged", (
            f"all {unit} are complete, but they were not merged; re-run the same `{command}`"
        )
    if failed is not None:
        return "failed", (
            f"a task failed: {failed.reason}; {done} of {total} {unit} complete; fix that, then "
            f"re-run the same `{command}`"
        )
    if facts.work.outdated is not None:
        return "outdated", f"{facts.work.outdated}; re-run the same `{command}`"
    return "stopped", (
        f"its jobs have ended, with {done} of {total} {unit} complete; see the logs, then re-run "
        f"`{command}`"
    )


# --- the table


class Rule:
    """One row of the table: a situation, and the state that it is.

    Args:
        name: the name of the rule.
        state: the state of a situation that matches; "<after>" for `Situation.after`.
        reason: a sentence, or a function that returns one if there is something to say.
        cells: by column, the value that matches, or several: "pending|running". A column that is
            not named matches any value.
    """

    def __init__(
        self, name: str, state: str, reason: Reason | None = None, **cells: str | bool
    ) -> None:
        self.name = name
        self.state = state
        self.reason = reason
        self._cells = {
            column: cell.split("|") if isinstance(cell, str) else [cell]
            for column, cell in cells.items()
        }

    def matches(self, situation: Situation) -> bool:
        return all(getattr(situation, column) in values for column, values in self._cells.items())


_HERE = "pending|running|suspended|ending|unknown"
_BACK = "running|suspended|ending|unknown"

# The first rule that matches decides.
TABLE = (
    # Of a sharded work.
    Rule("product", "FINISHED", sharded=True, done=True),
    Rule("computing", "RUNNING", _without_job, sharded=True, phase="running"),
    Rule("begun since", "RUNNING", _without_job, sharded=True, phase="pending", moved=True),
    Rule("queued pieces", "PENDING", _without_job, sharded=True, phase="pending"),
    Rule("standing still", "STOPPED", sharded=True),
    # Of a training.
    Rule("other writer", "RUNNING", _writer, request="refused|stale|lost", writer=True),
    Rule("refused", "FAILED", _refused, request="refused"),
    Rule("interrupted submission", "FAILED", _interrupted, request="stale"),
    Rule("lost ledger", "LOST", _lost, request="lost"),
    Rule("being submitted", "PENDING", _submitter, request="open"),
    Rule("turned away", "PENDING", job="none", attempt="none"),
    Rule("finished", "FINISHED", attempt="ended", after="FINISHED"),
    Rule("successor's turn", "REQUEUED", _waits, job="successor", attempt="other", phase=_HERE),
    Rule(
        "queued",
        "PENDING",
        _waits,
        attempt="none|other",
        phase="pending|running|suspended|ending",
    ),
    # Its launcher does not answer: only the ledger has news of it.
    Rule(
        "perhaps queued",
        "PENDING",
        _waits,
        attempt="none|other",
        phase="unknown",
        end="failed|quiet",
    ),
    Rule("requeued by launcher", "REQUEUED", _waits, attempt="open", phase="pending"),
    Rule("training", "RUNNING", _warning, attempt="open", phase=_HERE),
    Rule(
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
    Rule("back in queue", "REQUEUED", _detail_or_waits, attempt="ended", phase="pending"),
    Rule(
        "coming back",
        "REQUEUED",
        _detail_or_waits,
        attempt="ended",
        phase=_BACK,
        restarts=True,
        back=True,
    ),
    Rule(
        "followed",
        "REQUEUED",
        _detail,
        attempt="ended",
        after="STOPPED|LOST|FAILED",
        phase="ending",
        followed=True,
        given_up=False,
    ),
    Rule("writer without job", "RUNNING", _writer, writer=True),
    Rule("cancelled", "CANCELLED", end="cancelled"),
    Rule("never began", "FAILED", _never_began, attempt="none|other"),
    Rule("lost without job", "LOST", job="none", attempt="open"),
    Rule("failed unsaid", "FAILED", _launchers_word, attempt="open", end="failed"),
    Rule("too late", "STOPPED", _TOO_LATE, attempt="open", end="late"),
    Rule("vanished", "LOST", _VANISHED, attempt="open"),
    Rule("given up", "FAILED", _given_up, given_up=True),
    Rule("stuck", "STOPPED", _stuck, stuck=True),
    Rule("ended", "<after>", _detail),
)


def state_of(
    history: History,
    facts: RunFacts | ShardedFacts,
    answers: LauncherAnswers,
    now: float | None = None,
) -> State:
    """What a work is doing.

    Args:
        history: the history of the work's ledger.
        facts: what the other files of the work say.
        answers: the answers of the launchers of its jobs, or `NoAnswers`.
        now: seconds since 1970; default: this moment.
    """
    situation = Situation(history, facts, answers, time.time() if now is None else now)
    rule = rule_of(situation)
    reason = rule.reason(situation) if callable(rule.reason) else rule.reason
    if isinstance(facts, ShardedFacts):
        cause = None
        if rule.state == "STOPPED":
            cause, reason = why_stopped(history, facts) or (None, None)
        return State(name=rule.state, reason=reason, cause=cause)
    name = situation.after if rule.state == "<after>" else rule.state
    if name in OVER and situation.left_over:
        jobs = ", ".join(situation.left_over)
        reason = f"job {jobs} still waits, with nothing to do: `cldctl cancel {facts.name}`"
    return State(name=name, reason=reason, job=situation.current, answer=situation.answer)


def rule_of(situation: Situation) -> Rule:
    """The rule that decides."""
    return next(rule for rule in TABLE if rule.matches(situation))
