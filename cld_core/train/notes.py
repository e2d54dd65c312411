"""What the ledger of a run says about forms that were measured, and what is added to it."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cld_core.ranks import Ranks
from cld_core.run import Lease, events, pending
from cld_core.run.events import Event
from cld_core.run.history import History
from cld_core.run.ledger import Ledger

from .forms import Choice, Options, Timings, recalled
from .jointly import on_first

T = TypeVar("T")

# A form that was begun so often, and each time neither measured nor left by a request to stop, is not tried again.
_TRIALS = 2
DIED = "ended the process"


@dataclass(frozen=True)
class Notes:
    """The part of a ledger that is about one kind of place (`tuning.place_of`), for all ranks.

    Attributes:
        ledger: None if nothing is remembered.
        lease: of the run folder, held on rank 0 alone; checked before anything is written.
    """

    ranks: Ranks
    where: str
    ledger: Ledger | None = None
    lease: Lease | None = None

    def known(self, options: Options, passes: int) -> Choice | None:
        """What `compare` would choose here; None if something that it would measure never was."""

        def read(history: History) -> Choice | None:
            event = history.measured.get(self.where)
            return None if event is None else recalled(options, event.milliseconds, event.failed, passes)

        return self._from_first(read)

    def deadly(self) -> frozenset[str]:
        """The forms that are not tried again here, in words."""

        def read(history: History) -> frozenset[str]:
            return frozenset(form for form, times in history.begun(self.where).items() if times >= _TRIALS)

        return self._from_first(read) or frozenset()

    def begin(self, choice: Choice) -> None:
        """Note that a form is tried, in case it ends the process.

        Raises:
            LeaseLostError, RankError: another job owns the run folder.
        """
        self._append(events.Measuring(where=self.where, form=str(choice)))

    def end(self, choice: Choice, timings: Timings, seconds: float) -> None:
        """Note what was found out in so many seconds. Raises as `begin` does."""
        self._append(
            events.Measured(
                where=self.where,
                compile=choice.compile,
                channels_last=choice.channels_last,
                upsampling=choice.upsampling,
                milliseconds={str(form): round(ms, 3) for form, ms in timings.milliseconds.items()},
                failed={str(form): reason for form, reason in timings.failed.items()},
                seconds=round(seconds, 1),
            )
        )

    def _from_first(self, read: Callable[[History], T]) -> T | None:
        own = read(pending.history(self.ledger)) if self.ranks.is_first and self.ledger is not None else None
        found: T | None = self.ranks.from_first(own)
        return found

    def _append(self, event: Event) -> None:
        ledger, lease = self.ledger, self.lease
        if ledger is None:
            return

        def write() -> None:
            # Without the note, the forms are measured again another time.
            with contextlib.suppress(OSError):
                if lease is not None:
                    lease.check()
                pending.append(ledger, event)

        on_first(self.ranks, write)
