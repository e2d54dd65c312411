"""A ledger read in one pass. All readers use this fold; none of them scans the events itself."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cld_core.records import record

from .events import (
    CRASHES,
    RESTARTED_BY_LAUNCHER,
    Cancelled,
    Cause,
    Ended,
    Event,
    Failed,
    GivenUp,
    Imported,
    JobRef,
    Labelled,
    Refused,
    Remarked,
    Requested,
    RolledBack,
    Started,
    Submitted,
    TurnedAway,
    Why,
    Wished,
    state_after,
)

# The fields that a request changes and its refusal restores.
_OF_REQUEST = ("steps", "overrides", "from_step", "code", "stored")


@record
class Attempt(Started):
    """One stretch of training: how it started, and how it ended.

    ``cause`` and ``ended`` are None while it lasts, and if its end was never recorded.

    Attributes:
        requested_code: the digest in the request, as in `Requested`.
        rewound: whether `resume --from` named the step that it began from.
        bug: whether it ended by an error in code or recipe, which another start would meet again.
        noted_end: whether the attempt itself recorded its end; if not, ``ended`` is when its end
            was discovered.
    """

    requested_code: str | None = None
    rewound: bool = False
    ended: float | None = None
    cause: Cause | None = None
    last_step: int | None = None
    detail: str | None = None
    bug: bool = False
    noted_end: bool = False

    @property
    def started(self) -> float:
        """When it began to train, seconds since 1970."""
        return self.time

    @property
    def first_step(self) -> int:
        """The step from which it began."""
        return self.step


@dataclass(kw_only=True)
class History:
    """The fold of a ledger. Readers share one object; only the code that makes it may call `take`.

    Attributes:
        attempts: oldest first. Their count is the number of the next attempt, which keys the noise.
        submitted: all jobs, oldest first.
        turned_away: by job id, why the job had nothing to do.
        request: the last request, or its refusal, if no job or attempt has followed it.
        steps: `train.steps` of the last request.
        overrides: those that continuations added, in order.
        from_step: the step that `resume --from` named, until an attempt has started.
        code: the digest of the code in the last request; "live" if that is the checkout, or the
            process's own.
        stored: `Requested.code` of the last request: the name of that code in the run's folder.
        edited: changes of the frozen recipe that were made by hand, in words.
        imported: the checkpoint from elsewhere that the run begins with, if any.
        cancelled: ids of the jobs that were cancelled.
        not_begun: by job id, why the job could not begin.
        requeued: the last requeue that a job requested, if no attempt has ended since.
        given_up: why the run is not started again, if that was decided since the last attempt
            ended; for a sharded work, why it was given up or not merged since its last job was
            submitted.
        not_requeued: why the job could not be requeued, if it has not begun again since.
        requeued_attempts: the numbers of the attempts during or after which their job requested a
            requeue.
        died_early: the number of starts that ended before they trained, since the last attempt
            began.
        bug: the error in code or recipe that ended the last attempt, if one did.
        failures: oldest first.
        untrained: by start of a job, begin and end of the starts that ended before they trained.
            Starts are left out if the ledger does not have their begin.
        unfit: machines that failed a health check since the last request or the last start of
            training.
        avoided: by job id, the nodes that the job avoids because of earlier failures there.
        attempts_before: the number of attempts before the last request.
        last_of: by job id, the newest event that names the job.
        rolled_back_to: the step of each rollback, oldest first.
        task_failed: the last error of a task in the newest submission of a sharded work.
        other_code: a message about the last task of a sharded work that ran other code than it was
            submitted with.
        note: the user's note about the run; None without one.
        tags: the run's tags, in the order in which they were added.
        queued: by attempt, when its job entered the queue for it, if known, and the requested delay
            in seconds.
        followed: by attempt, the earliest time of a line after its end. Times before its begin are
            left out, because clocks jump.
        verdict: the event that last changed the `state`; None since a request.
        heard: when the newest attempt last reported (`with_progress`).
        saved: the step of the newest checkpoint (`with_progress`), from which a next attempt would
            begin; None if there is none.
    """

    attempts: list[Attempt] = field(default_factory=list)
    submitted: list[Submitted] = field(default_factory=list)
    turned_away: dict[str, Why] = field(default_factory=dict)
    request: Requested | Refused | None = None
    steps: int | None = None
    overrides: tuple[str, ...] = ()
    from_step: int | None = None
    code: str | None = None
    stored: str | None = None
    edited: str = ""
    imported: Imported | None = None
    cancelled: set[str] = field(default_factory=set)
    not_begun: dict[str, str] = field(default_factory=dict)
    requeued: Wished | None = None
    given_up: str | None = None
    not_requeued: str | None = None
    requeued_attempts: set[int] = field(default_factory=set)
    died_early: int = 0
    bug: str | None = None
    failures: list[Failed] = field(default_factory=list)
    untrained: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    unfit: list[Failed] = field(default_factory=list)
    avoided: dict[str, tuple[str, ...]] = field(default_factory=dict)
    attempts_before: int = 0
    last_of: dict[str, Event] = field(default_factory=dict)
    rolled_back_to: tuple[int, ...] = ()
    other_code: str | None = None
    task_failed: Failed | None = None
    note: str | None = None
    tags: tuple[str, ...] = ()
    queued: dict[int, tuple[float | None, float]] = field(default_factory=dict)
    followed: dict[int, float] = field(default_factory=dict)
    verdict: Event | None = None
    heard: float | None = None
    saved: int | None = None
    _by_number: dict[int, Attempt] = field(default_factory=dict)
    _given_up_by: str | None = None
    _before_cancelled: dict[str, Event | None] = field(default_factory=dict)
    # By the order of lines, not by their times: clocks jump.
    _queue: dict[str, tuple[float, float]] = field(default_factory=dict)
    _newest_start: int | None = None
    _submitted_before: int = 0
    _before_request: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Event]) -> "History":
        """The history of events, oldest first.

        An attempt without an end was ``killed`` if another one followed.
        """
        history = cls()
        for event in events:
            history.take(event)
        history.attempts = [history._by_number[number] for number in sorted(history._by_number)]
        return history

    def with_progress(self, progress: Mapping[str, Any], saved: Sequence[int] = ()) -> "History":
        """This history, with the last step and the warning of an attempt that has not ended.

        Args:
            progress: the report of an attempt, `RunFolder.progress`.
            saved: the steps of the checkpoints, ascending; one may be later than the last report.
        """
        number = progress.get("attempt")
        reached = progress.get("step")
        heard = None
        if self.last is not None and self.last.attempt == number:
            heard = progress.get("time")
            if reached is not None:
                reached = max(reached, *saved[-1:], self.last.first_step)
        attempts = []
        for attempt in self.attempts:
            if attempt.attempt == number and attempt.last_step is None:
                warning = attempt.warning or progress.get("warning")
                attempt = replace(attempt, last_step=reached, warning=warning)
            attempts.append(attempt)
        return replace(self, attempts=attempts, heard=heard, saved=max(saved, default=None))

    @property
    def jobs(self) -> tuple[Submitted, ...]:
        """Submitted jobs except those that were turned away, oldest first."""
        return tuple(event for event in self.submitted if event.job.job_id not in self.turned_away)

    @property
    def cluster(self) -> str | None:
        """The name of the cluster of the newest request or job, refused requests aside.

        None if it is not known.
        """
        if isinstance(self.request, Requested) and self.request.cluster:
            return self.request.cluster
        return self.jobs[-1].job.cluster if self.jobs else None

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def imported_step(self) -> int | None:
        """The step of the imported checkpoint, 0 if the run started from weights; else None."""
        return None if self.imported is None else self.imported.step

    @property
    def by_other_launcher(self) -> bool:
        """Whether the newest attempt was started without cldctl, by torchrun for example.

        No submitted job runs it, and none was submitted since.
        """
        if self.last is None or self.last.job_id is None:
            return False
        submitted = [event.job.job_id for event in self.submitted]
        return self.last.job_id not in submitted and len(submitted) == self._submitted_before

    @property
    def cause(self) -> str | None:
        """Why the newest attempt ended; None if it has not ended, or there is no attempt."""
        return None if self.last is None else self.last.cause

    @property
    def data(self) -> Mapping[str, str]:
        """The identity of the data of the newest attempt that has one; empty if none has."""
        return next((attempt.data for attempt in reversed(self.attempts) if attempt.data), {})

    def rollbacks(self, to_step: int | None = None) -> int:
        """The number of rollbacks so far, all or those to one step. It keys the noise, too."""
        return sum(to_step in (None, step) for step in self.rolled_back_to)

    @property
    def crashes_in_a_row(self) -> int:
        """Crashes without a new checkpoint, up to now."""
        crashes = self.died_early
        next_first_step: float = -1
        for attempt in reversed(self.attempts):
            # If the next attempt began at a later step, this one had saved progress.
            if attempt.cause not in CRASHES or attempt.first_step < next_first_step:
                break
            next_first_step = attempt.first_step
            crashes += 1
        return crashes

    @property
    def crashes(self) -> Mapping[str, int]:
        """How often each task of a sharded work ended with an error, by job id."""
        return Counter(failed.job_id for failed in self.failures if failed.kind == "crash")

    @property
    def state(self) -> str:
        """The state that follows from the ledger alone, if launchers carry out all requests."""
        match self.verdict:
            case None:
                return "PENDING"
            case Started():
                return "RUNNING"
            case Ended() if (ended := self.newest) is not None:
                submission = self._submission(ended.job_id)
                restarts = submission is not None and submission.job.restarts
                is_back = restarts and ended.cause in RESTARTED_BY_LAUNCHER
                return "REQUEUED" if is_back else state_after(ended.cause or "killed")
            case Wished():
                waiting = self._waiting(self.verdict.job_id)
                is_first = waiting is not None and waiting.successor_of is None
                return "PENDING" if is_first else "REQUEUED"
            case Refused() if self._waiting(self.verdict.job_id) is None:
                return "STOPPED"
            case Cancelled():
                return "CANCELLED"
        return "FAILED"

    def _waiting(self, job_id: str | None) -> Submitted | None:
        """The submission of a job, unless the job has trained."""
        has_trained = any(attempt.job_id == job_id for attempt in self._by_number.values())
        return None if has_trained else self._submission(job_id)

    def _submission(self, job_id: str | None) -> Submitted | None:
        return next((event for event in self.submitted if event.job.job_id == job_id), None)

    def was_requeued(self, attempt: Attempt) -> bool:
        """Whether the job of ``attempt`` has requested a requeue since the attempt began."""
        return attempt.attempt in self.requeued_attempts

    def successors_of(self, job_id: str) -> list[JobRef]:
        """Jobs that wait for this one to fail."""
        return [event.job for event in self.jobs if event.successor_of == job_id]

    def current(self, is_gone: Callable[[JobRef], bool]) -> Submitted | None:
        """The job that decides the state: the newest, except for successors that still wait."""
        jobs = self.jobs
        by_id = {event.job.job_id: event.job for event in jobs}
        for event in jobs[:0:-1]:
            has_trained = self.last is not None and self.last.job_id == event.job.job_id
            if event.successor_of is None or has_trained:
                return event
            before = by_id.get(event.successor_of)
            may_begin = self.cause not in ("finished", "cancelled")
            if may_begin and (before is None or is_gone(before)):
                return event
        return jobs[0] if jobs else None

    def take(self, event: Event) -> None:
        """Fold one more event. Only `of` updates `attempts`."""
        self._note_time(event)
        self._note_job(event)
        match event:
            case Requested():
                self._requested(event)
            case Submitted():
                self._submitted(event)
            case TurnedAway():
                self.turned_away[event.job_id] = event.why
            case Imported():
                self._imported(event)
            case Started():
                self._started(event)
            case Ended():
                self._ended(event)
            case RolledBack():
                self.rolled_back_to += (event.to_step,)
            case Cancelled():
                self._cancelled(event)
            case GivenUp():
                self.given_up = event.reason
                self._given_up_by = event.job_id
                self.verdict = event
                if event.never_began:
                    self.not_begun[event.job_id or ""] = event.reason
            case Wished():
                self._wished(event)
            case Refused():
                self._refused(event)
            case Failed():
                self._failed(event)
            case Remarked(kind="recipe"):
                self.edited = event.what
            case Remarked(kind="code"):
                self.other_code = event.what
            case Labelled():
                if event.note is not None:
                    self.note = event.note or None
                others = [tag for tag in self.tags if tag not in event.remove]
                self.tags = tuple(dict.fromkeys([*others, *event.add]))

    def _note_time(self, event: Event) -> None:
        """Keep the time of a line that follows the end of the newest attempt."""
        newest = self.newest
        if newest is None or event.time < newest.started:
            return
        if newest.cause is not None or isinstance(event, Started):
            earliest = self.followed.get(newest.attempt, event.time)
            self.followed[newest.attempt] = min(event.time, earliest)

    def _note_job(self, event: Event) -> None:
        """Keep the newest event of a job, apart from errors of single processes."""
        if isinstance(event, Failed) and event.kind in ("rank", "task"):
            return
        named = event.job if isinstance(event, Submitted) else event
        job_id = getattr(named, "job_id", None)
        if job_id is not None:
            self.last_of[job_id] = event

    def _requested(self, event: Requested) -> None:
        self._before_request = {name: getattr(self, name) for name in _OF_REQUEST}
        self.request = event
        self.steps = event.steps
        self.from_step = event.from_step
        self.stored = event.code
        self.code = "live" if event.live else event.code
        self.overrides += event.overrides
        self.unfit = []
        self.attempts_before = len(self._by_number)
        self.verdict = None

    def _submitted(self, event: Submitted) -> None:
        job_id = event.job.job_id
        self.request = None
        if event.successor_of is None:
            self.verdict = None
        self.submitted.append(event)
        self._queue[job_id] = (event.time, 0.0)
        self.avoided[job_id] = event.exclude
        # The end of an attempt clears these; sharded work has no attempts. Jobs of the same array
        # keep them: a task may give up before the tasks beside it are noted.
        array = array_of(job_id)
        if event.shards is not None and array_of(self._given_up_by or "") != array:
            self.given_up = None
            self.not_requeued = None
        if self.task_failed is not None and array_of(self.task_failed.job_id) != array:
            self.task_failed = None

    def _wished(self, event: Wished) -> None:
        self._queue[event.job_id] = (event.time, event.delay_s)
        self.requeued = event
        if self.newest is None or self.newest.cause != "finished":
            self.verdict = event
        self.not_requeued = None
        self.avoided[event.job_id] = event.exclude
        # By the order of lines, not by their times: clocks jump.
        if self.newest is not None and self.newest.job_id == event.job_id:
            self.requeued_attempts.add(self.newest.attempt)

    def _refused(self, event: Refused) -> None:
        if event.what == "cancellation":
            self.cancelled.discard(event.job_id or "")
            if isinstance(self.verdict, Cancelled) and self.verdict.job_id == event.job_id:
                self.verdict = self._before_cancelled.pop(self.verdict.job_id)
        elif event.what == "requeue":
            self.requeued = None
            self.not_requeued = event.reason
            self.verdict = event
            self._given_up_by = event.job_id
        elif self.request is not None:
            # A refusal that is noted after the job of a later request is ignored.
            if isinstance(self.request, Requested):
                vars(self).update(self._before_request)
            self.request = event

    def _cancelled(self, event: Cancelled) -> None:
        self.cancelled.add(event.job_id)
        newest = self.newest
        if newest is not None and newest.cause is None and newest.job_id == event.job_id:
            return  # The attempt notes its end itself, after it has saved.
        state = self.state
        may_continue = state in ("PENDING", "REQUEUED", "STOPPED", "LOST")
        is_of_verdict = getattr(self.verdict, "job_id", None) == event.job_id
        never_began = is_of_verdict and self._waiting(event.job_id) is not None
        if may_continue or (never_began and state != "CANCELLED"):
            self._before_cancelled[event.job_id] = self.verdict
            self.verdict = event

    def _failed(self, event: Failed) -> None:
        self.failures.append(event)
        if event.began is not None:
            queued, _ = self._queue.get(event.job_id, (event.began, 0.0))
            began = min(max(event.began, queued), event.time)
            self.untrained.setdefault(event.start, (began, event.time))
        if event.kind == "early":
            self.died_early += 1
            self.bug = None
            self.verdict = event
            self.not_begun[event.job_id] = event.reason
        elif event.kind == "unfit":
            if event.start not in [failed.start for failed in self.unfit]:
                self.verdict = event
            self.unfit.append(event)
            self.not_begun[event.job_id] = f"unfit: {event.reason}"
        elif event.kind == "task":
            self.task_failed = event

    @property
    def newest(self) -> Attempt | None:
        """The attempt that started last, the only one that can be without an end."""
        return None if self._newest_start is None else self._by_number[self._newest_start]

    def _set(self, attempt: Attempt, **changes: Any) -> None:
        self._by_number[attempt.attempt] = replace(attempt, **changes)

    def _imported(self, event: Imported) -> None:
        self.imported = event
        self._by_number[0] = Attempt(
            time=event.time,
            attempt=0,
            job_id=None,
            step=event.step,
            ended=event.time,
            cause="finished" if event.finished else "imported",
            last_step=event.step,
            detail=event.words,
            noted_end=True,
        )

    def _started(self, event: Started) -> None:
        rewound = self.from_step is not None
        self.unfit = []
        # A job that was turned away because another one held the run may start after all.
        self.turned_away.pop(event.job_id or "", None)
        self.request = None
        self.from_step = None
        self.bug = None
        self.not_requeued = None
        self.died_early = 0
        if self.newest is not None and self.newest.cause is None:
            self._set(self.newest, cause="killed", ended=event.time)
        self._newest_start = event.attempt
        self.verdict = event
        self._submitted_before = len(self.submitted)
        self.queued[event.attempt] = self._queue.get(event.job_id or "", (None, 0.0))
        before = self._by_number.get(event.attempt - 1)
        if before is not None:
            if before.last_step is None:
                self._set(before, last_step=event.reached, ended=event.heard or before.ended)
            elif before.last_step < event.step and not rewound:
                # Its end names the last step that it reported; this start, the last that it saved.
                self._set(before, last_step=event.step)
        self._by_number[event.attempt] = Attempt(
            **vars(event), requested_code=self.code, rewound=rewound
        )

    def _ended(self, event: Ended) -> None:
        if not event.afterwards:
            self.bug = event.detail if event.bug else None
        attempt = self._by_number.get(event.attempt)
        if attempt is None:
            return
        is_newest = event.attempt == self._newest_start
        if event.afterwards:
            self._set(attempt, cause=event.cause, ended=attempt.ended or event.time)
        else:
            was_cancelled = event.cause == "terminated" and attempt.job_id in self.cancelled
            cause = "cancelled" if was_cancelled else event.cause
            self._set(
                attempt,
                cause=cause,
                ended=event.time,
                last_step=event.step,
                detail=event.detail,
                bug=event.bug,
                noted_end=True,
            )
            if is_newest:
                self.verdict = event
        if is_newest and not (event.afterwards and attempt.ended is not None):
            # These decisions were about earlier attempts.
            self.requeued = None
            self.given_up = None


def array_of(job_id: str) -> str:
    """The job id without the number of a task in its array."""
    return job_id.partition("_")[0]
