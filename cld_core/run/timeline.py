"""What each attempt of a run cost, and how much of it is left: what `cldctl why` and `cldctl usage`
are made of."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .events import Failed, fate_of
from .history import Attempt, History


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """One attempt, between the moment at which its job was put into the queue and its end; times
    since 1970.

    Attributes:
        queued: when its job was put into the queue, for the first time or again; None if nobody
            knows.
        began: when it got its machines; when it began to train if nobody recorded that.
        started: when it began to train.
        until: its end, or when it was last heard of.
        kept: steps that it trained and that the run still has.
        lost: steps beyond the checkpoint that the next attempt began from, or would begin from.
        set_aside: steps that the run no longer has because somebody named an earlier one in
            ``resume --from``.
        delay_s: seconds of the wait that were asked for, after a crash.
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
            alive: it may still make its first step, or save those that it has made.
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
        it for it in history.attempts if not (it.attempt == 0 and history.imported_step is not None)
    ]
    steps = _steps(attempts, history.saved, alive)
    failed = sorted(
        (it for it in history.failures if it.kind in ("rank", "unfit")), key=lambda it: it.time
    )
    found: list[Stretch] = []
    for place, attempt in enumerate(attempts):
        following = attempts[place + 1] if place + 1 < len(attempts) else None
        last_heard = history.heard if following is None else following.heard
        kept, lost, aside = steps[place]
        queued, delay_s = history.queued[attempt.attempt]
        # A launcher puts a job back without a line in the ledger; a successor is in the queue
        # before its turn comes.
        for before in found[-1:]:
            is_mine = (
                before.attempt.job_id == attempt.job_id if queued is None else before.until > queued
            )
            queued, delay_s = (before.until, 0.0) if is_mine else (queued, delay_s)
        if attempt.ended is not None and (attempt.noted_end or last_heard is None):
            until = attempt.ended
        else:
            until = attempt.started if last_heard is None else last_heard
        until = min(until, history.followed.get(attempt.attempt, until), time.time())
        if (
            following is not None
            and following.job_id == attempt.job_id
            and following.began is not None
        ):
            # Of one job, a start has the machines that the one before had.
            until = min(until, max(following.began, attempt.started))
        started = attempt.started
        earliest = -math.inf
        if queued is not None:
            started = min(max(started, queued), until) if queued <= until else started
            earliest = min(queued, started)
        began = started if attempt.began is None else attempt.began
        found.append(
            Stretch(
                attempt=attempt,
                queued=queued,
                began=min(max(began, earliest), started),
                started=started,
                until=max(started, until),
                kept=kept,
                lost=lost,
                set_aside=aside,
                delay_s=delay_s,
                failures=tuple(
                    it for it in failed if it.start == (attempt.job_id, attempt.restart)
                ),
            )
        )
    return found


def in_vain(history: History) -> list[tuple[float, float]]:
    """From when to when starts lasted that ended before they trained, if the ledger says so; times
    since 1970."""
    queued = [(event.job.job_id, event.time) for event in history.submitted]
    queued += [(event.job_id, event.time) for event in history.requeues]
    found: dict[tuple[str, int], tuple[float, float]] = {}
    for event in history.failures:
        if event.kind in ("unfit", "early") and event.began is not None:
            earliest = [
                time for job_id, time in queued if job_id == event.job_id and time <= event.time
            ]
            found.setdefault(
                event.start, (min(max((event.began, *earliest)), event.time), event.time)
            )
    return list(found.values())


def _steps(
    attempts: Sequence[Attempt], saved: int | None, alive: bool
) -> list[tuple[int, int, int]]:
    """Of each attempt, the steps that are kept, lost and set aside."""
    found: list[tuple[int, int, int]] = []
    # The lowest step that a later attempt began from; and without what follows a step that somebody
    # named.
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
