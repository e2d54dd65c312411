"""What each attempt of a run cost, and how much of it is left: what `cldctl why` and `cldctl usage` are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from . import events
from .attempt import Attempt
from .events import Cause
from .history import History

Fate = Literal["preemption", "crashes"]
# What an attempt was taken away by; anything else that is not an end of the training counts as a crash.
_TAKEN: tuple[Cause, ...] = ("preempted", "timeout", "terminated", "requeued", "cancelled")


def fate_of(cause: Cause | None) -> Fate | None:
    """What the steps beyond the last checkpoint are lost to after this cause; None if nothing is lost."""
    if cause in (None, "finished", "imported"):
        return None
    return "preemption" if cause in _TAKEN else "crashes"


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
    failures: tuple[events.RankFailed | events.Unfit, ...] = ()

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
    found = []
    for place, attempt in enumerate(attempts):
        later = attempts[place + 1 :]
        kept, lost, aside = _steps(attempt, later, saved, alive)
        queued, delay_s = _queued(history, attempt, attempts[place - 1] if place else None)
        began = attempt.started if attempt.began is None else min(attempt.began, attempt.started)
        found.append(
            Stretch(
                attempt=attempt,
                queued=queued,
                began=began,
                until=_until(attempt, later[0].heard if later else heard),
                kept=kept,
                lost=lost,
                set_aside=aside,
                delay_s=delay_s,
                failures=_failures(history, attempt),
            )
        )
    return found


def excluded(history: History) -> tuple[str, ...]:
    """The nodes that the run's job avoids since it last put itself back into the queue."""
    asked = [event for event in history.told if isinstance(event, events.Requeued)]
    return asked[-1].exclude if asked else ()


def _steps(attempt: Attempt, later: Sequence[Attempt], saved: int | None, alive: bool) -> tuple[int, int, int]:
    """Steps kept, lost and set aside."""
    first = attempt.first_step
    reached = max(first, attempt.last_step if attempt.last_step is not None else first)

    def within(step: int) -> int:
        return min(max(step, first), reached)

    if not later:
        is_whole = alive or (fate_of(attempt.cause) is None and attempt.cause is not None)
        base = reached if is_whole else within(saved if saved is not None else first)
        return base - first, reached - base, 0
    # What was lost on its own, before somebody named an earlier step.
    asked = next((place for place, it in enumerate(later) if it.rewound), len(later))
    natural = within(min((it.first_step for it in later[:asked]), default=reached))
    base = min(natural, within(min(it.first_step for it in later)))
    return base - first, reached - natural, natural - base


def _until(attempt: Attempt, heard: float | None) -> float:
    if attempt.ended is not None and (attempt.noted_end or heard is None):
        return max(attempt.started, attempt.ended)
    return max(attempt.started, heard if heard is not None else attempt.started)


def _queued(history: History, attempt: Attempt, before: Attempt | None) -> tuple[float | None, float]:
    """When the job of an attempt was last put into the queue before it began, and the delay that was asked for."""
    job = attempt.job_id
    moments: list[tuple[float, float]] = []
    for event in history.submitted:
        if event.job.job_id == job and event.time <= attempt.started:
            moments.append((event.time, 0.0))
    for told in history.told:
        if isinstance(told, events.Requeued) and told.job_id == job and told.time <= attempt.started:
            moments.append((told.time, told.delay_s))
    if before is not None and before.job_id == job:
        moments.append((_until(before, attempt.heard), 0.0))
    elif before is not None:
        # A successor, or an evaluation's training, is in the queue long before its turn comes.
        moments = [(max(time, _until(before, attempt.heard)), delay) for time, delay in moments]
    return max(moments) if moments else (None, 0.0)


def _failures(history: History, attempt: Attempt) -> tuple[events.RankFailed | events.Unfit, ...]:
    mine = [
        event
        for event in history.told
        if isinstance(event, events.RankFailed | events.Unfit)
        and (event.job_id, event.restart) == (attempt.job_id, attempt.restart)
    ]
    return tuple(sorted(mine, key=lambda event: event.time))
