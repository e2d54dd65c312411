"""Which rank failed first, and where: what ranks note themselves, and what the launcher says of those that cannot."""

import contextlib
import socket
import sys
from collections.abc import Iterator, Sequence

from cld_core.errors import (
    LeaseHeldError,
    LeaseLostError,
    NonFiniteError,
    NotFoundError,
    SaveError,
    UnfitError,
    UsageError,
)
from cld_core.run import RunFolder
from cld_core.run.events import Event, Failed
from cld_core.sanitize import one_line
from cldctl.clusters.base import InJob

from .blame import is_secondary
from .process import UNFIT

_MAX_REASON = 500  # characters
# Seconds for which a rank that failed tries to say so: srun is about to end the others, and this one is to blame.
_NOTE_WITHIN_S = 5.0
# Errors that all ranks meet at the same moment, or that say nothing about the machine.
_SHARED = (LeaseHeldError, LeaseLostError, NonFiniteError, NotFoundError, SaveError, UsageError)
_BY_ITSELF = "Exited with exit code"
_HANGING = "Killed"
# In the line with which an aftermath announces the next start.
AGAIN = "; again in "


@contextlib.contextmanager
def noted(run: RunFolder, job: InJob) -> Iterator[None]:
    """Note in the ledger that this rank fails, and on which node, unless it fails because of another one."""
    try:
        yield
    except Exception as error:
        if not job.in_process:
            with contextlib.suppress(Exception):  # What is raised below matters more.
                for event in _events(job, error):
                    run.ledger.note(event, within_s=_NOTE_WITHIN_S)
        raise


def _events(job: InJob, error: Exception) -> Sequence[Event]:
    rank, host = job.place().rank, job.node or socket.gethostname()
    if isinstance(error, UnfitError):
        if rank in error.hosts:
            return [_unfit(job, rank, error.hosts[rank] or host, error.check, str(error))]
        return [_unfit(job, 0, "", error.check, str(error))] if not error.hosts and rank == 0 else []
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, _SHARED) or is_secondary(said):
        return []
    return [_failed(job, rank, host, said)]


def unfit_by_log(job: InJob, offset: int, code: int) -> list[Failed]:
    """Machines that found themselves unfit and could not write it down, by the exit codes of their ranks."""
    tasks = [task for task in job.ended_tasks(_of_this_start(job, offset)) if task.code == UNFIT]
    if not tasks and code != UNFIT:
        return []
    reason = "its ranks could not write down which health check failed; see cldctl logs"
    found = [_unfit(job, task.rank, task.node, "folder", reason) for task in tasks[:1]]
    return found or [_unfit(job, 0, "", "unknown", reason)]


def killed_rank(job: InJob, offset: int, *, hung: bool, trained: bool) -> Failed | None:
    """The rank that failed first, as far as the launcher's log tells it, if no rank has noted that itself.

    Args:
        offset: where in the log this attempt, or an earlier one, begins, bytes.
        hung: whether ranks ended because no step was finished: then it is the one that had to be killed.
        trained: whether the start came so far; before, the first rank that ends is to blame.
    """
    tasks = job.ended_tasks(_of_this_start(job, offset))
    by_signal = [task for task in tasks if not task.how.startswith(_BY_ITSELF)]
    if hung:
        stuck = [task for task in by_signal if task.how.startswith(_HANGING)]
        chosen = stuck if len({task.node for task in stuck}) == 1 else []
    else:
        chosen = by_signal or ([] if trained else list(tasks))
    if not chosen:
        return None
    return _failed(job, chosen[0].rank, chosen[0].node, "it hung, and was killed" if hung else chosen[0].how)


def _failed(job: InJob, rank: int, host: str, reason: str) -> Failed:
    reason = one_line(reason, _MAX_REASON)
    return Failed("rank", job_id=job.ref.job_id, restart=job.restart, rank=rank, host=host, reason=reason)


def _unfit(job: InJob, rank: int, host: str, check: str, reason: str) -> Failed:
    reason = one_line(reason, _MAX_REASON)
    return Failed(
        "unfit",
        job_id=job.ref.job_id,
        restart=job.restart,
        rank=rank,
        host=host,
        check=check,
        reason=reason,
        began=job.began,
    )


def _of_this_start(job: InJob, offset: int) -> str:
    """What the log says since the aftermath of the start before wrote its last line there."""
    return job.log_since(offset).rpartition(AGAIN)[2]


def announce(name: str, text: str, delay_s: float) -> None:
    """Say in the log that the job begins again, and when."""
    print(f"{name}: {text}{AGAIN}{delay_s:.0f} s", file=sys.stderr, flush=True)
