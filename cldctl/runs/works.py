"""All sharded work in the folder of a run: evaluations and tunings."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cld_core.evaluation.evaluation import Evaluation, evaluations_of
from cld_core.run import RunFolder
from cld_core.shards import Work
from cld_core.tuned.work import Tuning, tunings_of


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
