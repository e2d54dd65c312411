"""What each attempt of a run cost, and how much of its work was kept, for `why` and `usage`."""

import math
import time
from collections.abc import Sequence

from cld_core.records import record

from .events import Failed, fate_of
from .history import Attempt, History


@record
class Stretch:
    """One attempt, from the moment at which its job was put into the queue to its end.

    Times are seconds since 1970.

    Attributes:
        queued: when its job was put into the queue, for the first time or again; None if unknown.
        began: when it got its machines; if that was not recorded, when it began to train.
        started: when it began to train.
        until: its end, or the time of its last report.
        kept: steps that it trained and that the run still has.
        lost: steps beyond the checkpoint that the next attempt began from, or would begin from.
        set_aside: steps that ``resume --from`` an earlier step has discarded.
        delay_s: seconds of the wait that were requested, after a crash.
        failures: errors of ranks and of health checks, in the order of their times.
    """

    attempt: Attempt
    queued: float | None
    began: float
    started: float
    until: float
    kept: int
    lost: int
    set_aside: int
    delay_s: float = 0.0
    failures: tuple[Failed, ...] = ()

    @property
    def waited_s(self) -> float:
        """Seconds in the queue."""
        return 0.0 if self.queued is None else max(0.0, self.began - self.queued)

    @property
    def startup_s(self) -> float:
        """Seconds between getting the machines and beginning to train."""
        return self.started - self.began

    @property
    def trained_s(self) -> float:
        return self.until - self.started

    @property
    def allocated_s(self) -> float:
        return self.startup_s + self.trained_s

    def split(self, *, alive: bool) -> tuple[float, float, float]:
        """`trained_s` as seconds that are kept, lost and set aside, in proportion to the steps.

        Args:
            alive: whether it may still make its first step, or save its steps.
        """
        steps = self.kept + self.lost + self.set_aside
        if steps == 0:
            useless = not alive and fate_of(self.attempt.cause) is not None
            return (0.0, self.trained_s, 0.0) if useless else (self.trained_s, 0.0, 0.0)
        kept, lost, aside = (
            self.trained_s * part / steps for part in (self.kept, self.lost, self.set_aside)
        )
        return kept, lost, aside


def stretches(history: History, *, alive: bool) -> list[Stretch]:
    """The attempts of a run, oldest first, without an import.

    Clocks jump. The order of the lines does not: an attempt began after its job was put into the
    queue, and was over before the next line after its end was written.

    Args:
        history: with the progress of the run (`History.with_progress`).
        alive: whether the newest attempt is still training.
    """
    attempts = [
        attempt
        for attempt in history.attempts
        if attempt.attempt != 0 or history.imported_step is None
    ]
    steps = _steps(attempts, history.saved, alive)
    failures = [failed for failed in history.failures if failed.kind in ("rank", "unfit")]
    failures.sort(key=lambda failed: failed.time)
    result: list[Stretch] = []
    for attempt, following, fate in zip(attempts, [*attempts, None][1:], steps, strict=True):
        until = _until(history, attempt, following)
        queued, delay_s = _queued(history, attempt, result[-1] if result else None)
        started = attempt.started
        began = started if attempt.began is None else attempt.began
        if queued is not None:
            if queued <= until:
                started = min(max(started, queued), until)
            began = max(began, min(queued, started))
        start = (attempt.job_id, attempt.restart)
        stretch = Stretch(
            attempt=attempt,
            queued=queued,
            began=min(began, started),
            started=started,
            until=max(started, until),
            delay_s=delay_s,
            failures=tuple(failed for failed in failures if failed.start == start),
            **fate,
        )
        result.append(stretch)
    return result


def _until(history: History, attempt: Attempt, following: Attempt | None) -> float:
    """The end of an attempt, or the time of its last report, before the next line of the ledger."""
    until = history.heard if following is None else following.heard
    if until is None or attempt.noted_end:
        until = attempt.ended or attempt.started
    until = min(until, history.followed.get(attempt.attempt, until), time.time())
    if following is None or following.job_id != attempt.job_id or following.began is None:
        return until
    # Starts of one job use the same machines one after the other, so their times do not overlap.
    return min(until, max(following.began, attempt.started))


def _queued(
    history: History, attempt: Attempt, before: Stretch | None
) -> tuple[float | None, float]:
    """When the job of an attempt was put into the queue, and the requested delay in seconds."""
    queued, delay_s = history.queued[attempt.attempt]
    if before is None:
        return queued, delay_s
    # A launcher may requeue a job without a line in the ledger, and a successor enters the queue
    # before its turn comes. Both wait from the end of the attempt before.
    if queued is None:
        waits_from_end = before.attempt.job_id == attempt.job_id
    else:
        waits_from_end = before.until > queued
    return (before.until, 0.0) if waits_from_end else (queued, delay_s)


def _steps(attempts: Sequence[Attempt], saved: int | None, alive: bool) -> list[dict[str, int]]:
    """The fields of each attempt's `Stretch` that count its steps."""
    fields = []
    # The lowest step that a later attempt began from, or would begin from.
    lowest = math.inf
    if attempts:
        newest = attempts[-1]
        loses_steps = newest.cause is None or fate_of(newest.cause) is not None
        if loses_steps and not alive:
            lowest = newest.first_step if saved is None else saved
    # The same, up to the next attempt whose step was named in `resume --from`.
    natural = lowest
    for attempt in reversed(attempts):
        first = attempt.first_step
        reached = max(first, attempt.last_step or first)
        saved_until = int(min(max(natural, first), reached))
        kept_until = int(min(max(lowest, first), saved_until))
        fields.append(
            {
                "kept": kept_until - first,
                "lost": reached - saved_until,
                "set_aside": saved_until - kept_until,
            }
        )
        lowest = min(lowest, first)
        natural = math.inf if attempt.rewound else min(natural, first)
    return fields[::-1]
