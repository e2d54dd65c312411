"""Crashes of a run lately, whether or not it gained steps between them: a loop that saves once per crash ends, too."""

from dataclasses import dataclass

from cld_core.run.events import CRASHES
from cld_core.run.history import History

DAY_S = 86400.0
# From so many on, a run that goes on is said to crash.
WORTH_TELLING = 3


@dataclass(frozen=True)
class Lately:
    """The crashes of a day: how many, in how many seconds from the first start to the last end, steps of each."""

    crashes: int
    seconds: float
    steps: float

    def __str__(self) -> str:
        times = "once" if self.crashes == 1 else f"{self.crashes} times"
        return f"crashed {times} in {_duration(self.seconds)}, {self.steps:.0f} steps each"


def lately(history: History, now: float) -> Lately:
    """The crashes of the last day since somebody last asked for the run: to resume it is to try again."""
    attempts = [
        attempt
        for attempt in history.attempts[history.attempts_before :]
        if attempt.cause in CRASHES and (attempt.ended or attempt.started) > now - DAY_S
    ]
    if not attempts:
        return Lately(0, 0.0, 0.0)
    steps = sum(max(0, (attempt.last_step or attempt.first_step) - attempt.first_step) for attempt in attempts)
    last = attempts[-1]
    return Lately(len(attempts), (last.ended or last.started) - attempts[0].started, steps / len(attempts))


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.0f} h"
