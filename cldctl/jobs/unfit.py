"""What follows when a machine is not fit to train on: the job begins again on others, and no retry is spent."""

import sys
from collections.abc import Callable

from cld_core.run import RunFolder
from cld_core.run.events import GivenUp
from cldctl.clusters.base import InJob

from . import failures, successor
from .train import go_on, log_offset

# Starts in a row that may find unfit machines, and seconds before the next one: doubled with each, up to a limit.
STARTS, BACK_OFF_S, MOST_S = 10, 10.0, 300.0
# Seconds for which a line of the ledger is tried to be written.
_NOTE_WITHIN_S = 60.0


def after_unfit(run: RunFolder, job: InJob, code: int, told_to_end: Callable[[], bool] = lambda: False) -> bool:
    """Start a job again elsewhere if a health check failed in this start; whether that is so."""
    start = job.ref.job_id, job.restart
    history = run.ledger.full_history()
    found = [event for event in history.unfit if (event.job_id, event.restart) == start]
    if not found:
        found = failures.unfit_by_log(job, log_offset(run), code)
        for event in found:
            run.ledger.note(event, within_s=_NOTE_WITHIN_S)
    if not found:
        return False
    starts = len({(event.job_id, event.restart) for event in run.ledger.full_history().unfit})
    if starts > STARTS:
        reason = f"{starts} starts in a row found an unfit machine, at last {found[-1].reason}"
        run.ledger.note(GivenUp(reason=reason, job_id=job.ref.job_id), within_s=_NOTE_WITHIN_S)
        print(f"{run.name}: {reason}: not started again", file=sys.stderr, flush=True)
        successor.withdraw(run, job)
        return True
    delay_s = min(BACK_OFF_S * 2 ** (starts - 1), MOST_S)
    failures.announce(run.name, f"unfit: {found[0].reason}", delay_s)
    go_on(run, job, "unfit", delay_s=delay_s, told_to_end=told_to_end)
    return True
