"""What a ledger says has changed about a run, as its hook hears about it. Pure, and asks no scheduler."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cld_core.run import events
from cld_core.run.events import RESTARTED_BY_LAUNCHER, Cause, Event, state_after


@dataclass(frozen=True, kw_only=True)
class Change:
    """The run is in another state.

    Attributes:
        place: the number of its event in the ledger, from 0.
        cause: why the attempt ended; of a run that begins again, why the one before did.
        step: None if the event names none.
    """

    place: int
    time: float
    state: str
    cause: Cause | None = None
    reason: str | None = None
    attempt: int | None = None
    step: int | None = None
    job_id: str | None = None
    host: str | None = None


def changes(ledger: Iterable[Event], *, is_over: bool = False) -> list[Change]:
    """All changes, oldest first. An end and what is decided about it at once, such as a requeue, are one change.

    Args:
        is_over: whether jobs that were cancelled are known to be gone, although they did not say so.
    """
    fold = _Fold()
    for place, event in enumerate(ledger):
        fold.take(place, event)
    if is_over:
        fold.settle()
    return fold.changes


@dataclass
class _Fold:
    """Attributes:
    begun: the newest attempt, and ``is_open``, whether it has no end yet.
    is_new: whether a request has come after the last change.
    waits: by job that has not trained yet, the state of the run while it waits.
    unfit: the start of which an unfit machine was told last.
    before: by job, the change that its cancellation replaced; None if that was a change of its own.
    """

    changes: list[Change] = field(default_factory=list)
    begun: events.Started | None = None
    is_open: bool = False
    is_new: bool = True
    restarts: set[str] = field(default_factory=set)
    cancelled: dict[str, tuple[int, events.Cancelled]] = field(default_factory=dict)
    cause: Cause | None = None
    waits: dict[str, str] = field(default_factory=dict)
    unfit: tuple[str, int] | None = None
    before: dict[str, Change | None] = field(default_factory=dict)

    def take(self, place: int, event: Event) -> None:
        match event:
            case events.Requested():
                self.is_new = True
            case events.Submitted():
                self.is_new = True
                self.waits[event.job.job_id] = "PENDING" if event.successor_of is None else "REQUEUED"
                if event.job.restarts:
                    self.restarts.add(event.job.job_id)
            case events.Started():
                self._started(place, event)
            case events.Ended(afterwards=True):
                self._explained(event)
            case events.Ended():
                self._ended(place, event)
            case events.Requeued():
                self._decided(place, event, self.waits.get(event.job_id, "REQUEUED"), event.job_id, cause=event.cause)
            case events.Refused(what="requeue"):
                reason = f"could not be requeued: {event.reason}"
                state = "FAILED" if event.job_id in self.waits else "STOPPED"
                self._decided(place, event, state, event.job_id, reason=reason)
            case events.GivenUp(never_began=True):
                self._add(place, event, "FAILED", event.job_id, reason=event.reason)
            case events.GivenUp():
                self._decided(place, event, "FAILED", event.job_id, reason=event.reason)
            case events.Failed(kind="early"):
                self._add(place, event, "FAILED", event.job_id, cause="crashed", reason=event.reason)
            case events.Failed(kind="unfit"):
                self._unfit(place, event)
            case events.Cancelled():
                self._cancelled(place, event)
            case events.Refused(what="cancellation"):
                self._not_cancelled(place, event)

    def settle(self) -> None:
        """A cancelled job whose attempt has no end is gone."""
        job_id = self.begun.job_id if self.begun is not None else None
        if self.is_open and job_id in self.cancelled:
            place, event = self.cancelled[job_id]
            self._add(place, event, "CANCELLED", job_id, cause="cancelled")

    def _add(
        self,
        place: int,
        event: Event,
        state: str,
        job_id: str | None,
        *,
        cause: Cause | None = None,
        reason: str | None = None,
        step: int | None = None,
    ) -> None:
        begun = self.begun if self.begun is not None and job_id in (None, self.begun.job_id) else None
        if step is None and state == "RUNNING" and begun is not None:
            step = begun.step
        self.is_new = False
        self.changes.append(
            Change(
                place=place,
                time=event.time,
                state=state,
                cause=cause,
                reason=reason,
                attempt=None if begun is None else begun.attempt,
                step=step,
                job_id=job_id,
                host=None if begun is None else begun.host,
            )
        )

    def _started(self, place: int, event: events.Started) -> None:
        self.begun, self.is_open = event, True
        self.waits.pop(event.job_id or "", None)
        self._add(place, event, "RUNNING", event.job_id, cause=self.cause, reason=event.warning)
        self.cause = None

    def _unfit(self, place: int, event: events.Failed) -> None:
        """The end of a start, told once although several ranks note it; what is decided about it follows."""
        start = event.job_id, event.restart
        if self.unfit != start:
            self.unfit = start
            self._add(place, event, "FAILED", event.job_id, cause="unfit", reason=event.reason)

    def _ended(self, place: int, event: events.Ended) -> None:
        begun, cause = self.begun, event.cause
        if begun is None or begun.attempt != event.attempt:
            return
        self.is_open = False
        if cause == "terminated" and begun.job_id in self.cancelled:
            cause = "cancelled"
        self.cause = cause
        state = self._after(cause, begun.job_id)
        self._add(place, event, state, begun.job_id, cause=cause, reason=event.detail, step=event.step)

    def _after(self, cause: Cause, job_id: str | None) -> str:
        return "REQUEUED" if cause in RESTARTED_BY_LAUNCHER and job_id in self.restarts else state_after(cause)

    def _explained(self, event: events.Ended) -> None:
        if self.begun is None or self.begun.attempt != event.attempt:
            return
        self.cause, self.is_open = event.cause, False
        last = self.changes[-1]
        if last.attempt == event.attempt and last.state != "RUNNING":
            state = last.state if last.state == "REQUEUED" else self._after(event.cause, self.begun.job_id)
            self.changes[-1] = replace(last, cause=event.cause, state=state)

    def _decided(
        self,
        place: int,
        event: Event,
        state: str,
        job_id: str | None,
        *,
        cause: Cause | None = None,
        reason: str | None = None,
    ) -> None:
        """What follows the end of a job is the same change as the end."""
        last = self.changes[-1] if self.changes else None
        if last is None or last.job_id != job_id or last.state == "RUNNING" or self.is_new:
            self._add(place, event, state, job_id, cause=cause, reason=reason)
            return
        cause, reason = last.cause or cause, reason or last.reason
        self.changes[-1] = replace(last, place=place, time=event.time, state=state, cause=cause, reason=reason)

    def _cancelled(self, place: int, event: events.Cancelled) -> None:
        self.cancelled[event.job_id] = (place, event)
        last = self.changes[-1] if self.changes else None
        if self.is_open and self.begun is not None and self.begun.job_id == event.job_id:
            return  # It saves first, and then notes its end.
        if last is not None and not self.is_new and last.state == "CANCELLED":
            return
        never_began = last is not None and last.job_id == event.job_id and event.job_id in self.waits
        if last is None or self.is_new or never_began or last.state in ("REQUEUED", "STOPPED", "LOST"):
            count = len(self.changes)
            self._decided(place, event, "CANCELLED", event.job_id, cause="cancelled")
            self.before[event.job_id] = last if len(self.changes) == count else None

    def _not_cancelled(self, place: int, event: events.Refused) -> None:
        """The launcher refused: the run is what it was before somebody asked."""
        job_id = event.job_id or ""
        self.cancelled.pop(job_id, None)
        last = self.changes[-1] if self.changes else None
        if job_id not in self.before or last is None or (last.state, last.job_id) != ("CANCELLED", job_id):
            return
        before = self.before.pop(job_id)
        if before is None:
            before = replace(last, state=self.waits.get(job_id, "REQUEUED"), cause=None)
        self.changes[-1] = replace(before, place=place, time=event.time)
