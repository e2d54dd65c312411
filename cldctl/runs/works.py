"""All sharded work in the folder of a run: evaluations and tunings."""

from cld_core.evaluation.evaluation import evaluations_of
from cld_core.run import RunFolder
from cld_core.shards import Work
from cld_core.tuned.work import tunings_of


def works_of(run: RunFolder) -> list[Work]:
    """Evaluations, oldest first, and tunings; those that are damaged or of another version of cldctl are skipped."""
    return [*evaluations_of(run), *tunings_of(run)]
