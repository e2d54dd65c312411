"""What every process of a job does around its work."""

import contextlib
import sys
from collections.abc import Iterator

from cld_core.errors import CldError, UnusableSamplesError
from cldctl.clusters.base import InJob, SchedulerAway, SchedulerRefused

# Seconds for which a job tries to requeue itself while the scheduler is away.
REQUEUE_WITHIN_S = 60.0
# How a process of a job ends, in place of 1 as after a crash, if another start would end in the same way.
HOPELESS = 6


@contextlib.contextmanager
def one_line_errors(job: InJob) -> Iterator[None]:
    """Errors that name their fix need no traceback, and the process ends with their exit code.

    Inside a command they propagate, and stdout, which is the command's own for data, is left alone.
    """
    if job.in_process:
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    try:
        yield
    except CldError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(HOPELESS if isinstance(error, UnusableSamplesError) else error.exit_code)


def requeue(job: InJob, delay_s: float = 0.0) -> bool:
    """Put a job back into the queue; False, and a line in its log, if that failed."""
    try:
        job.requeue(delay_s=delay_s, within_s=REQUEUE_WITHIN_S)
    except (SchedulerRefused, SchedulerAway) as error:
        print(f"could not requeue job {job.ref.job_id}: {error}", flush=True)
        return False
    return True
