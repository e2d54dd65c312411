"""What every process of a job does around its work."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core import files
from cld_core.errors import CldError, SolverError, UnfitError, UnusableSamplesError
from cld_core.files import passes, pauses, retried
from cld_core.stop import StopCode, StopFlag
from cldctl.clusters.base import InJob
from cldctl.clusters.records import SchedulerAway, SchedulerRefused

# Seconds for which a job tries to requeue itself while the scheduler is away; its end may come earlier.
REQUEUE_WITHIN_S = 3600.0
# How a process of a job ends, in place of 1 as after a crash, if another start would end in the same way.
HOPELESS = 6
# How it ends if it saved and could not requeue the job: badly, so that a successor begins, and yet not by a crash.
NOT_REQUEUED = 7
# How it ends if the machine is not fit to train on.
UNFIT = 8
# Seconds for which a job waits for the file system to read what it needs.
READ_WITHIN_S = 60.0
_HOPELESS_ERRORS = (UnusableSamplesError, SolverError)


@dataclass
class InCommand:
    """How a job behaves inside a command: ``quiet``, it keeps to itself how far it is (`cldctl -q`)."""

    quiet: bool = False


in_command = InCommand()


@contextlib.contextmanager
def one_line_errors(job: InJob) -> Iterator[None]:
    """Errors that name their fix need no traceback, and the process ends with their exit code.

    Inside a command they propagate, and stdout, which is the command's own for data, is left alone.
    """
    if job.in_process:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if in_command.quiet else sys.stderr):
            yield
        return
    try:
        yield
    except CldError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if isinstance(error, UnfitError):
            _leave_at_once(UNFIT)
        sys.exit(HOPELESS if isinstance(error, _HOPELESS_ERRORS) else error.exit_code)
    except OSError as error:
        if not passes(error):
            raise
        # As after a crash: another start may succeed.
        print(f"error: {error}. The next start tries again.", file=sys.stderr, flush=True)
        sys.exit(1)


def stop_before_limit(job: InJob, stop: StopFlag) -> None:
    """Stop in time on its own, if the notice of the time limit may have come while the job was being set up."""
    seconds = job.late_notice_s() if job.ref.restarts and job.place().rank == 0 else None
    if seconds is not None:
        timer = threading.Timer(seconds, stop.request, (StopCode.USR2,))
        timer.daemon = True
        timer.start()


def _leave_at_once(code: int) -> None:
    """End this process although a check hangs in one of its threads: a driver, or a network file system."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def readable(file: Path) -> None:
    """Wait until a file can be read. What is missing for good is left to those who read it.

    Raises:
        OSError: the file system fails for too long. Not an error of the user's: another start may succeed.
    """
    try:
        retried(lambda: files.read_bytes(file), READ_WITHIN_S)
    except OSError as error:
        if passes(error):
            raise


def requeue(
    job: InJob,
    delay_s: float = 0.0,
    *,
    exclude: Sequence[str] = (),
    readmit: Sequence[str] = (),
    told_to_end: Callable[[], bool] = lambda: False,
) -> str | None:
    """Put a job back into the queue, asking until the scheduler answers; why it is not there, if that failed.

    Whoever asks may be killed meanwhile: the notice, the grace time or the time limit is over.

    Args:
        exclude, readmit: nodes, see `InJob.requeue`.
        told_to_end: whether a signal asked this process to end, maybe because somebody cancelled the job.
    """
    deadline = time.monotonic() + REQUEUE_WITHIN_S
    for pause in pauses(first_s=2.0):
        try:
            if told_to_end() and job.is_cancelled():
                return "it was cancelled"
            job.requeue(delay_s=delay_s, exclude=exclude, readmit=readmit)
            return None
        except SchedulerRefused as error:
            return _not_requeued(job, error)
        except SchedulerAway as error:
            if time.monotonic() + pause > deadline:
                return _not_requeued(job, error)
            print(f"job {job.ref.job_id} is not requeued yet: {error}", flush=True)
        time.sleep(pause)
    raise AssertionError("pauses never end")


def _not_requeued(job: InJob, error: SchedulerRefused | SchedulerAway) -> str:
    print(f"could not requeue job {job.ref.job_id}: {error}", flush=True)
    return str(error).partition(". ")[0]
