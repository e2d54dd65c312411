"""What each attempt of a run cost, and how much of it is left: what `cldctl why` and `cldctl usage` are made of."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .events import Failed, fate_of
from .history import Attempt, History


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """One attempt, between the moment at which its job was put into the queue and its end; times since 1970.

    Attributes:
        queued: when its job was put into the queue, for the first time or again; None if nobody knows.
        began: when it got its machines; when it began to train if nobody recorded that.
        until: its end, or when it was last heard of.
        kept: steps that it trained and that the run still has.
        lost: steps beyond the checkpoint that the next attempt began from, or would begin from.
        set_aside: steps that the run no longer has because somebody named an earlier one in ``resume --from``.
        delay_s: seconds of the wait that were asked for, after a crash.
        failures: errors of ranks and of health checks, in the order of their times.
    """

    attempt: Attempt
    queued: float | None
    began: float
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
        return max(0.0, self.attempt.started - self.began)

    @property
    def trained_s(self) -> float:
        return max(0.0, self.until - self.attempt.started)

    @property
    def allocated_s(self) -> float:
        return self.startup_s + self.trained_s

    def split(self, *, alive: bool) -> tuple[float, float, float]:
        """`trained_s` as seconds that are kept, lost and set aside, in proportion to the steps.

        Args:
            alive: it may still make its first step, or save those that it has made.
        """
        steps = self.kept + self.lost + self.set_aside
        if steps == 0:
            useless = not alive and fate_of(self.attempt.cause) is not None
            return (0.0, self.trained_s, 0.0) if useless else (self.trained_s, 0.0, 0.0)
        kept, lost, aside = (self.trained_s * part / steps for part in (self.kept, self.lost, self.set_aside))
        return kept, lost, aside


def stretches(history: History, *, saved: int | None, heard: float | None, alive: bool) -> list[Stretch]:
    """The attempts of a run, oldest first, without an import.

    Args:
        saved: the step of the newest checkpoint, from which a next attempt would begin.
        heard: when the newest attempt last reported, in case nobody has recorded its end.
        alive: whether the newest attempt is still training.
    """
    attempts = [it for it in history.attempts if not (it.attempt == 0 and history.imported_step is not None)]
    steps, queue, failures = _steps(attempts, saved, alive), _queue(history), _failures(history)
    found = []
    for place, attempt in enumerate(attempts):
        following = attempts[place + 1] if place + 1 < len(attempts) else None
        kept, lost, aside = steps[place]
        queued, delay_s = _queued(queue, attempt, attempts[place - 1] if place else None)
        found.append(
            Stretch(
                attempt=attempt,
                queued=queued,
                began=attempt.started if attempt.began is None else min(attempt.began, attempt.started),
                until=_until(attempt, heard if following is None else following.heard),
                kept=kept,
                lost=lost,
                set_aside=aside,
                delay_s=delay_s,
                failures=failures.get((attempt.job_id, attempt.restart), ()),
            )
        )
    return found


def in_vain(history: History) -> list[tuple[float, float]]:
    """From when to when starts lasted that ended before they trained, if the ledger says so; times since 1970."""
    found: dict[tuple[str, int], tuple[float, float]] = {}
    for event in history.failures:
        if event.kind in ("unfit", "early") and event.began is not None:
            found.setdefault(event.start, (event.began, max(event.began, event.time)))
    return list(found.values())


def _steps(attempts: Sequence[Attempt], saved: int | None, alive: bool) -> list[tuple[int, int, int]]:
    """Of each attempt, the steps that are kept, lost and set aside."""
    found: list[tuple[int, int, int]] = []
    # The lowest step that a later attempt began from; and without what follows a step that somebody named.
    lowest: float | None = None
    natural = math.inf
    for attempt in reversed(attempts):
        first = attempt.first_step
        reached = max(first, attempt.last_step if attempt.last_step is not None else first)
        if lowest is None:
            is_whole = alive or (attempt.cause is not None and fate_of(attempt.cause) is None)
            lowest = natural = math.inf if is_whole else first if saved is None else saved
        unlost = int(min(max(natural, first), reached))
        kept = int(min(max(lowest, first), unlost))
        found.append((kept - first, reached - unlost, unlost - kept))
        lowest = min(lowest, first)
        natural = math.inf if attempt.rewound else min(natural, first)
    return found[::-1]


def _until(attempt: Attempt, heard: float | None) -> float:
    if attempt.ended is not None and (attempt.noted_end or heard is None):
        return max(attempt.started, attempt.ended)
    return max(attempt.started, heard if heard is not None else attempt.started)


def _queue(history: History) -> dict[str, list[tuple[float, float]]]:
    """By job, the times at which it was put into the queue, ascending, each with the delay that was asked for."""
    moments: dict[str, list[tuple[float, float]]] = {}
    for event in history.submitted:
        moments.setdefault(event.job.job_id, []).append((event.time, 0.0))
    for requeued in history.requeues:
        moments.setdefault(requeued.job_id, []).append((requeued.time, requeued.delay_s))
    return {job: sorted(times) for job, times in moments.items()}


def _queued(
    queue: dict[str, list[tuple[float, float]]], attempt: Attempt, before: Attempt | None
) -> tuple[float | None, float]:
    """When the job of an attempt was last put into the queue before it began, and the delay that was asked for."""
    moments = queue.get(attempt.job_id or "", [])
    place = bisect.bisect_right(moments, (attempt.started, math.inf))
    queued, delay_s = moments[place - 1] if place else (None, 0.0)
    if before is not None and (queued is not None or before.job_id == attempt.job_id):
        # A launcher puts a job back without a line in the ledger; a successor is in the queue before its turn comes.
        end = _until(before, attempt.heard)
        if queued is None or end > queued:
            return end, 0.0
    return queued, delay_s


def _failures(history: History) -> dict[tuple[str | None, int], tuple[Failed, ...]]:
    """By job and start, what failed, in the order of the times."""
    found: dict[tuple[str | None, int], tuple[Failed, ...]] = {}
    failed = [event for event in history.failures if event.kind in ("rank", "unfit")]
    for event in sorted(failed, key=lambda event: event.time):
        found[event.start] = (*found.get(event.start, ()), event)
    return found
