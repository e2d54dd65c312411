"""A ledger read in one pass. Readers use this fold; none of them scans the events itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import events
from .events import Event, JobRef, NotSubmitted, Requested, Requeued, Submitted

# Causes of an attempt's end that another start may not meet again.
CRASHES = ("crashed", "out_of_memory", "killed")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One stretch of training; ``cause`` and ``ended`` are None while it lasts, and if nobody recorded its end.

    Attributes:
        warning: what is wrong while it lasts.
        restart: earlier starts of its job by the launcher.
        log_offset: size in bytes of the launcher's log when it began; None if there is none.
        bug: it ended by an error in code or recipe, which another start would meet again.
    """

    attempt: int
    job_id: str | None
    started: float
    first_step: int
    ended: float | None = None
    cause: str | None = None
    last_step: int | None = None
    detail: str | None = None
    host: str | None = None
    warning: str | None = None
    restart: int = 0
    log_offset: int | None = None
    bug: bool = False


@dataclass(frozen=True, kw_only=True)
class History:
    """What a ledger says, in the form in which it is asked for.

    Attributes:
        attempts: oldest first; their number is the number of the next one, which keys the noise.
        submitted: every job that was submitted, oldest first.
        jobs: those of them that were not turned away.
        request: the last request, or its refusal, if no job or attempt has followed it.
        steps: `train.steps` of the last request.
        overrides: those that continuations added, in order.
        from_step: the step that `resume --from` named, until an attempt has started.
        imported_step: the step of the checkpoint that the run was imported with; None for other runs.
        cancelled: ids of the jobs that somebody asked to end.
        not_begun: by job id, why it could not begin.
        requeued: the last time the job requeued itself, if that was after the last attempt ended.
        given_up: why the run is not started again, if that was decided since the last attempt ended.
        requeues: every requeue, oldest first.
        crashes_in_a_row: crashes without a new checkpoint, up to now.
        bug: what the last attempt died of, if that was an error in code or recipe.
        crashes: of sharded work, by job id, how often its task ended with an error.
        last_of: by job id, the newest event that names the job.
        rolled_back_to: the step of each rollback, oldest first.
    """

    attempts: tuple[Attempt, ...] = ()
    submitted: tuple[Submitted, ...] = ()
    jobs: tuple[Submitted, ...] = ()
    request: Requested | NotSubmitted | None = None
    steps: int | None = None
    overrides: tuple[str, ...] = ()
    from_step: int | None = None
    imported_step: int | None = None
    cancelled: frozenset[str] = frozenset()
    not_begun: Mapping[str, str] = field(default_factory=dict)
    requeued: Requeued | None = None
    given_up: str | None = None
    requeues: tuple[Requeued, ...] = ()
    crashes_in_a_row: int = 0
    bug: str | None = None
    crashes: Mapping[str, int] = field(default_factory=dict)
    last_of: Mapping[str, Event] = field(default_factory=dict)
    rolled_back_to: tuple[int, ...] = ()

    @classmethod
    def of(cls, events: Iterable[Event]) -> "History":
        """Read events, oldest first.

        An attempt without an end that another one followed was ``killed``.
        """
        fold = _Fold()
        for event in events:
            fold.take(event)
        return fold.result()

    def with_progress(self, progress: Mapping[str, Any]) -> "History":
        """The last step of an attempt without an end, from the ``progress`` that the same attempt wrote."""
        number = progress.get("attempt")
        if not any(attempt.attempt == number and attempt.last_step is None for attempt in self.attempts):
            return self
        reached = progress.get("step")
        attempts = (replace(it, last_step=reached) if it.attempt == number else it for it in self.attempts)
        return replace(self, attempts=tuple(attempts))

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    def rollbacks(self, to_step: int | None = None) -> int:
        """The number of rollbacks so far, all or those to one step. It keys the noise, too."""
        return sum(to_step in (None, step) for step in self.rolled_back_to)

    def was_requeued(self, attempt: Attempt) -> bool:
        """Whether the job of ``attempt`` has put itself back into the queue since the attempt began."""
        return any(event.time >= attempt.started and event.job_id == attempt.job_id for event in self.requeues)

    def successors_of(self, job_id: str) -> list[JobRef]:
        """Jobs that wait for this one to fail."""
        return [event.job for event in self.jobs if event.successor_of == job_id]

    def current(self, is_gone: Callable[[JobRef], bool]) -> Submitted | None:
        """The job that counts: the newest, but a successor only once its turn has come."""
        jobs, last = list(self.jobs), self.last
        while len(jobs) > 1:
            newest = jobs[-1]
            began = last is not None and last.job_id == newest.job.job_id
            if newest.successor_of is None or began:
                break
            before = next((event.job for event in jobs if event.job.job_id == newest.successor_of), None)
            ended_well = last is not None and last.cause in ("finished", "cancelled")
            if (before is None or is_gone(before)) and not ended_well:
                break
            jobs.pop()
        return jobs[-1] if jobs else None


class _Fold:
    """The state of the pass over the events."""

    def __init__(self) -> None:
        self.attempts: dict[int, Attempt] = {}
        self.submitted: list[Submitted] = []
        self.turned_away: set[str] = set()
        self.request: Requested | NotSubmitted | None = None
        self.steps: int | None = None
        self.overrides: list[str] = []
        self.from_step: int | None = None
        self.imported_step: int | None = None
        self.cancelled: set[str] = set()
        self.not_begun: dict[str, str] = {}
        self.requeued: Requeued | None = None
        self.given_up: str | None = None
        self.requeues: list[Requeued] = []
        self.died_early = 0
        self.bug: str | None = None
        self.crashes: dict[str, int] = {}
        self.last_of: dict[str, Event] = {}
        self.rolled_back_to: list[int] = []

    def take(self, event: Event) -> None:
        job_id = event.job.job_id if isinstance(event, Submitted) else getattr(event, "job_id", None)
        if job_id is not None:
            self.last_of[job_id] = event
        match event:
            case events.Requested():
                self.request, self.steps, self.from_step = event, event.steps, event.from_step
                self.overrides += event.overrides
            case events.NotSubmitted():
                self.request = event
            case events.Submitted():
                self.request = None
                self.submitted.append(event)
            case events.TurnedAway():
                self.turned_away.add(event.job_id)
            case events.Imported():
                self._imported(event)
            case events.Started():
                self._started(event)
            case events.Ended():
                self._ended(event)
            case events.Explained():
                self._explained(event)
            case events.RolledBack():
                self.rolled_back_to.append(event.to_step)
            case events.Cancelled():
                self.cancelled.add(event.job_id)
            case events.NotBegun():
                self.not_begun[event.job_id] = self.given_up = event.reason
            case events.GivenUp():
                self.given_up = event.reason
            case events.Requeued():
                self.requeued = event
                self.requeues.append(event)
            case events.DiedEarly():
                self.died_early += 1
                self.bug = None
            case events.Crashed():
                self.crashes[event.job_id] = self.crashes.get(event.job_id, 0) + 1

    def _imported(self, event: events.Imported) -> None:
        self.imported_step = event.step
        self.attempts[0] = Attempt(
            attempt=0,
            job_id=None,
            started=event.time,
            first_step=event.step,
            ended=event.time,
            cause="finished" if event.finished else "imported",
            last_step=event.step,
            detail=f"imported from {event.source}",
        )

    def _started(self, event: events.Started) -> None:
        self.request = self.from_step = None
        self.died_early, self.bug = 0, None
        for number, earlier in self.attempts.items():
            if earlier.cause is None:
                self.attempts[number] = replace(earlier, cause="killed", ended=event.time)
        before = self.attempts.get(event.attempt - 1)
        if before is not None and before.last_step is None:
            self.attempts[before.attempt] = replace(before, last_step=event.reached)
        self.attempts[event.attempt] = Attempt(
            attempt=event.attempt,
            job_id=event.job_id,
            started=event.time,
            first_step=event.step,
            host=event.host,
            warning=event.warning,
            restart=event.restart,
            log_offset=event.log_offset,
        )

    def _ended(self, event: events.Ended) -> None:
        self.bug = event.detail if event.bug else None
        before = self.attempts.get(event.attempt)
        if before is None:
            return
        cause = event.cause
        if cause == "terminated" and before.job_id in self.cancelled:
            cause = "cancelled"
        self.attempts[event.attempt] = replace(
            before, ended=event.time, cause=cause, last_step=event.step, detail=event.detail, bug=event.bug
        )
        self._nothing_since(event.attempt)

    def _explained(self, event: events.Explained) -> None:
        before = self.attempts.get(event.attempt)
        if before is None:
            return
        self.attempts[event.attempt] = replace(before, cause=event.cause, ended=before.ended or event.time)
        if before.ended is None:
            self._nothing_since(event.attempt)

    def _nothing_since(self, attempt: int) -> None:
        """What was decided before the newest attempt ended was about an earlier one."""
        if attempt == max(self.attempts):
            self.requeued = self.given_up = None

    def result(self) -> History:
        attempts = tuple(attempt for _, attempt in sorted(self.attempts.items()))
        return History(
            attempts=attempts,
            submitted=tuple(self.submitted),
            jobs=tuple(event for event in self.submitted if event.job.job_id not in self.turned_away),
            request=self.request,
            steps=self.steps,
            overrides=tuple(self.overrides),
            from_step=self.from_step,
            imported_step=self.imported_step,
            cancelled=frozenset(self.cancelled),
            not_begun=self.not_begun,
            requeued=self.requeued,
            given_up=self.given_up,
            requeues=tuple(self.requeues),
            crashes_in_a_row=_crashes_in_a_row(attempts) + self.died_early,
            bug=self.bug,
            crashes=self.crashes,
            last_of=self.last_of,
            rolled_back_to=tuple(self.rolled_back_to),
        )


def _crashes_in_a_row(attempts: tuple[Attempt, ...]) -> int:
    """How many of the last attempts crashed without saving progress."""
    count, best = 0, None
    for attempt in reversed(attempts):
        if attempt.cause not in CRASHES:
            break
        if best is not None and attempt.first_step < best:
            break  # The attempt after this one began at a later step, so this one had saved progress.
        best = attempt.first_step
        count += 1
    return count
