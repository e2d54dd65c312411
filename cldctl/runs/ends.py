"""When to believe that a job has ended: a job that is about to return to the queue looks gone for a moment."""

from dataclasses import dataclass

from cld_core.run import RunFolder
from cld_core.run.events import JobRef
from cld_core.run.lease import newest

from .survey import TO_LOOK_S, Answers

# Causes after which a job does not start again.
_FOR_GOOD = ("finished", "cancelled")


@dataclass
class Ends:
    """Looks in a row at which everything seemed to be over (``seen``).

    Attributes:
        max_age_s: how old the next answer may be: what seems to be over is asked about now.
    """

    seen: int = 0
    max_age_s: float = TO_LOOK_S

    def look(self, is_over: bool, answers: Answers, *, is_sure: bool) -> None:
        """Another look.

        Args:
            is_sure: whether the files say so, or a launcher for good; else one that is away may only remember it.
        """
        if not is_over:
            self.seen = 0
        elif is_sure or answers.problem is None:
            self.seen += 1
        self.max_age_s = 0.0 if self.seen and answers.problem is None and not is_sure else TO_LOOK_S


def is_over(run: RunFolder, job: JobRef) -> bool:
    """Whether a job of a run has trained to its end, or was cancelled, and writes nothing more into its folder."""
    last = run.ledger.history().last
    if last is None or last.job_id != job.job_id or last.cause not in _FOR_GOOD:
        return False
    try:
        return newest(run.leases)[1] is None
    except OSError:
        return False
