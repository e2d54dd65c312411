"""All work in the folder of a run: evaluations and tunings."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cld_core.errors import NotFoundError, UsageError
from cld_core.evaluate.evaluation import Evaluation, evaluations_of
from cld_core.evaluate.sweeps import sweeps_of
from cld_core.run import RunFolder
from cld_core.run.work import Work
from cld_core.tune.tuning import Tuning, tunings_of


@dataclass(frozen=True)
class Works:
    """The work of one run: evaluations, oldest first, and then tunings."""

    evaluations: Sequence[Evaluation]
    tunings: Sequence[Tuning]

    def __iter__(self) -> Iterator[Work]:
        return itertools.chain(self.evaluations, self.tunings)


def works_of(run: RunFolder) -> Works:
    """What is in a run's folder; what is damaged or of another version of cldctl is skipped."""
    return Works(evaluations_of(run), tunings_of(run))


def started_work(run: RunFolder, name: str) -> Work:
    """An evaluation or a tuning that was started.

    Args:
        name: its id, or the beginning of that if no other one that was started begins so.

    Raises:
        NotFoundError: there is no such evaluation, or no job of it.
        UsageError: several begin like that.
    """
    started = {work.name: work for work in works_of(run) if work.ledger.history().jobs}
    close = [key for key in started if name and key.startswith(name)]
    if name not in started and len(close) > 1:
        text = f"'{name}' is the beginning of {len(close)} evaluations of {run.name}: {', '.join(close)}"
        raise UsageError(f"{text}. Write more of the id.")
    found = started.get(name) or (started[close[0]] if close else None)
    if found is None:
        existing = ", ".join(started) or "none"
        raise NotFoundError(f"{run.name} has no evaluation {name} that was started. It has: {existing}.")
    return found


def started_works(run: RunFolder, name: str) -> list[Work]:
    """As `started_work`, or all evaluations of the sweep or comparison of this id that were started.

    Raises:
        NotFoundError, UsageError: as `started_work`.
    """
    members = {one for _, sweep in sweeps_of(run) if sweep.id == name for one in sweep.evaluations}
    # They are listed for a sweep alone: `started_work` lists them, too.
    works = works_of(run) if members else ()
    found = [work for work in works if work.name in members and work.ledger.history().jobs]
    return found or [started_work(run, name)]
