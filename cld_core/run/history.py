"""A ledger read in one pass. Readers use this fold; none of them scans the events itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import events
from .events import Cause, Event, JobRef, NotSubmitted, Requested, Requeued, Submitted, Why

# Causes of an attempt's end that another start may not meet again.
CRASHES: tuple[Cause, ...] = ("crashed", "out_of_memory", "killed")


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
    cause: Cause | None = None
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
        submitted: all jobs, oldest first.
        turned_away: by job id, why it had nothing to do.
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
        died_early: starts that ended before they trained, since the last attempt began.
        bug: what the last attempt died of, if that was an error in code or recipe.
        crashes: of sharded work, by job id, how often its task ended with an error.
        last_of: by job id, the newest event that names the job.
        rolled_back_to: the step of each rollback, oldest first.
    """

    attempts: tuple[Attempt, ...] = ()
    submitted: tuple[Submitted, ...] = ()
    turned_away: Mapping[str, Why] = field(default_factory=dict)
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
    died_early: int = 0
    bug: str | None = None
    crashes: Mapping[str, int] = field(default_factory=dict)
    last_of: Mapping[str, Event] = field(default_factory=dict)
    rolled_back_to: tuple[int, ...] = ()

    @classmethod
    def of(cls, events: Iterable[Event]) -> "History":
        """Read events, oldest first.

        An attempt without an end that another one followed was ``killed``.
        """
        history = cls()
        for event in events:
            history = history._after(event)
            job_id = event.job.job_id if isinstance(event, Submitted) else getattr(event, "job_id", None)
            if job_id is not None:
                history = replace(history, last_of={**history.last_of, job_id: event})
        return history

    def with_progress(self, progress: Mapping[str, Any]) -> "History":
        """The last step of an attempt without an end, from the ``progress`` that the same attempt wrote."""
        number = progress.get("attempt")
        if not any(attempt.attempt == number and attempt.last_step is None for attempt in self.attempts):
            return self
        reached = progress.get("step")
        attempts = (replace(it, last_step=reached) if it.attempt == number else it for it in self.attempts)
        return replace(self, attempts=tuple(attempts))

    @property
    def jobs(self) -> tuple[Submitted, ...]:
        """Submitted jobs except those that were turned away, oldest first."""
        return tuple(event for event in self.submitted if event.job.job_id not in self.turned_away)

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    def rollbacks(self, to_step: int | None = None) -> int:
        """The number of rollbacks so far, all or those to one step. It keys the noise, too."""
        return sum(to_step in (None, step) for step in self.rolled_back_to)

    @property
    def crashes_in_a_row(self) -> int:
        """Crashes without a new checkpoint, up to now."""
        count, best = self.died_early, None
        for attempt in reversed(self.attempts):
            if attempt.cause not in CRASHES:
                break
            if best is not None and attempt.first_step < best:
                break  # The attempt after this one began at a later step, so this one had saved progress.
            best = attempt.first_step
            count += 1
        return count

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

    def _after(self, event: Event) -> "History":
        match event:
            case events.Requested():
                overrides = self.overrides + event.overrides
                return replace(self, request=event, steps=event.steps, from_step=event.from_step, overrides=overrides)
            case events.NotSubmitted():
                return replace(self, request=event)
            case events.Submitted():
                return replace(self, request=None, submitted=(*self.submitted, event))
            case events.TurnedAway():
                return replace(self, turned_away={**self.turned_away, event.job_id: event.why})
            case events.Imported():
                return replace(self, imported_step=event.step, attempts=self._with(_imported(event)))
            case events.Started():
                attempts = self._with(*self._before(event), _started(event))
                return replace(self, attempts=attempts, request=None, from_step=None, died_early=0, bug=None)
            case events.Ended():
                return replace(self._ended(event), bug=event.detail if event.bug else None)
            case events.Explained():
                return self._explained(event)
            case events.RolledBack():
                return replace(self, rolled_back_to=(*self.rolled_back_to, event.to_step))
            case events.Cancelled():
                return replace(self, cancelled=self.cancelled | {event.job_id})
            case events.NotBegun():
                not_begun = {**self.not_begun, event.job_id: event.reason}
                return replace(self, not_begun=not_begun, given_up=event.reason)
            case events.GivenUp():
                return replace(self, given_up=event.reason)
            case events.Requeued():
                return replace(self, requeued=event, requeues=(*self.requeues, event))
            case events.DiedEarly():
                return replace(self, died_early=self.died_early + 1, bug=None)
            case events.Crashed():
                crashes = self.crashes.get(event.job_id, 0) + 1
                return replace(self, crashes={**self.crashes, event.job_id: crashes})
        return self

    def _numbered(self, attempt: int) -> Attempt | None:
        return next((it for it in self.attempts if it.attempt == attempt), None)

    def _with(self, *changed: Attempt) -> tuple[Attempt, ...]:
        by_number = {it.attempt: it for it in (*self.attempts, *changed)}
        return tuple(it for _, it in sorted(by_number.items()))

    def _before(self, event: events.Started) -> Iterable[Attempt]:
        """The earlier attempts: all have ended, and the one before may not have been able to say where."""
        for it in self.attempts:
            if it.cause is None:
                it = replace(it, cause="killed", ended=event.time)
            if it.attempt == event.attempt - 1 and it.last_step is None:
                it = replace(it, last_step=event.reached)
            yield it

    def _ended(self, event: events.Ended) -> "History":
        before = self._numbered(event.attempt)
        if before is None:
            return self
        cause = event.cause
        if cause == "terminated" and before.job_id in self.cancelled:
            cause = "cancelled"
        return self._with_end(
            replace(before, ended=event.time, cause=cause, last_step=event.step, detail=event.detail, bug=event.bug)
        )

    def _explained(self, event: events.Explained) -> "History":
        before = self._numbered(event.attempt)
        if before is None:
            return self
        if before.ended is not None:
            return replace(self, attempts=self._with(replace(before, cause=event.cause)))
        return self._with_end(replace(before, cause=event.cause, ended=event.time))

    def _with_end(self, ended: Attempt) -> "History":
        """With an end that was not known before: what was decided by then was about an earlier attempt."""
        history = replace(self, attempts=self._with(ended))
        return replace(history, requeued=None, given_up=None) if ended == history.last else history


def _imported(event: events.Imported) -> Attempt:
    return Attempt(
        attempt=0,
        job_id=None,
        started=event.time,
        first_step=event.step,
        ended=event.time,
        cause="finished" if event.finished else "imported",
        last_step=event.step,
        detail=f"imported from {event.source}",
    )


def _started(event: events.Started) -> Attempt:
    return Attempt(
        attempt=event.attempt,
        job_id=event.job_id,
        started=event.time,
        first_step=event.step,
        host=event.host,
        warning=event.warning,
        restart=event.restart,
        log_offset=event.log_offset,
    )
