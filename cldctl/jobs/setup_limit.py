"""What follows when the time limit comes while `cluster.setup` is still at work, before there is anything to save.

Slurm sends the notice of the limit to steps alone, and there is none yet. At the limit it ends the batch script, whose
trap calls the aftermath.
"""

import sys
from collections.abc import Callable, Sequence

from cld_core.run import RunFolder
from cld_core.run.events import Failed, GivenUp
from cld_core.sanitize import is_count
from cld_core.stop import StopCode
from cldctl.clusters.base import InJob

from . import failures, successor
from .process import READ_WITHIN_S
from .train import go_on, log_offset

# What the batch script passes in place of nothing.
IN_SETUP = "setup"
BACK_OFF_S = 10.0
_REASON = "the time limit came during cluster.setup"
# Slurm kills the batch script KillWait seconds (30 s by default) after it told it to end.
_NOTE_WITHIN_S = 5.0


def is_time_limit(job: InJob, offset: int) -> bool:
    """Whether the limit is what ended the setup: after a preemption, Slurm starts the job again itself."""
    return job.cause_of(StopCode.TERM, offset) == "timeout"


def offset_of(arguments: Sequence[str]) -> int | None:
    """Where in the log the notices about this start begin, as the batch script says."""
    return int(arguments[6]) if len(arguments) > 6 and is_count(arguments[6]) else None


def after_setup(run: RunFolder, job: InJob, told_to_end: Callable[[], bool], offset: int | None = None) -> None:
    """Start a job again whose setup took until the time limit, within `train.max_retries`.

    Args:
        offset: see `offset_of`.
    """
    if not is_time_limit(job, log_offset(run) if offset is None else offset):
        return
    event = Failed("early", job_id=job.ref.job_id, restart=job.restart, reason=_REASON, began=job.began)
    run.ledger.note(event, within_s=_NOTE_WITHIN_S)
    recipe = run.recipe(within_s=READ_WITHIN_S)
    count, allowed = run.ledger.full_history().crashes_in_a_row, recipe.train.max_retries
    if count > allowed:
        reason = f"{_REASON}, {count} times (train.max_retries={allowed}); set cluster.time_min higher and resume"
        run.ledger.note(GivenUp(job_id=job.ref.job_id, reason=reason, never_began=True), within_s=_NOTE_WITHIN_S)
        print(f"{run.name}: {reason}", file=sys.stderr, flush=True)
        if recipe.cluster.successor:
            successor.withdraw(run, job)
        return
    delay_s = BACK_OFF_S * 2 ** (count - 1)
    failures.announce(run.name, f"{_REASON}: attempt {count} of {allowed} allowed", delay_s)
    go_on(run, job, "timeout", delay_s=delay_s, told_to_end=told_to_end, began=False)
