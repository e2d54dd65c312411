"""What every process of a job does around its work, and where its start begins: in time, and in its logs."""

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cld_core import files
from cld_core.errors import CldError, SolverError, UnfitError, UnusableSamplesError
from cld_core.files import passes, pauses, retried
from cld_core.run.process import start_time
from cld_core.stop import StopCode, StopFlag
from cldctl.clusters.base import InJob, SchedulerAway, SchedulerRefused

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
# Seconds for which a line of a ledger that matters to others is tried to be written.
NOTE_WITHIN_S = 10.0
_HOPELESS_ERRORS = (UnusableSamplesError, SolverError)
# The line at the head of what a start prints, with what submitit says before it about this very process: the lines
# above may be about the end of the one before.
_BEGINS = rb"[^\n]{0,200}Starting with JobEnvironment"
_SUBMITIT = rb"(?:submitit " + _BEGINS + rb"[^\n]{0,2000}\n(?:submitit (?!" + _BEGINS + rb")[^\n]{1,2000}\n){0,8})?"
MARK = re.compile(
    rb"^" + _SUBMITIT + rb"--- start (?P<restart>[0-9]{1,9}) of job \S+: rank [0-9]+ on \S+, \S+ ---\r?\n", re.MULTILINE
)


# Inside a command (`cldctl -q`): a job keeps to itself how far it is.
quiet = False


@contextlib.contextmanager
def one_line_errors(job: InJob, before_leaving: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Errors that name their fix need no traceback, and the process ends with their exit code.

    Inside a command they propagate, and stdout, which is the command's own for data, is left alone.

    Args:
        before_leaving: what rank 0 does where no aftermath follows, if the process ends without leaving other blocks.
    """
    if job.in_process:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if quiet else sys.stderr):
            yield
        return
    try:
        yield
    except CldError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if isinstance(error, UnfitError):
            if not job.cluster.restarts and job.place().rank == 0:
                before_leaving()
            # At once, although a check hangs in one of its threads: a driver, or a network file system.
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(UNFIT)
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
        except (SchedulerRefused, SchedulerAway) as error:
            if isinstance(error, SchedulerRefused) or time.monotonic() + pause > deadline:
                print(f"could not requeue job {job.ref.job_id}: {error}", flush=True)
                return str(error).partition(". ")[0]
            print(f"job {job.ref.job_id} is not requeued yet: {error}", flush=True)
        time.sleep(pause)
    raise AssertionError("pauses never end")


def begin(job: InJob) -> None:
    """Print the line from which on the output is that of this start, on both streams; not inside a command."""
    if job.in_process:
        return
    when = time.strftime("%Y-%m-%dT%H:%M:%S")
    host = "".join(socket.gethostname().split()) or "?"
    text = f"--- start {job.restart} of job {job.ref.job_id}: rank {job.place().rank} on {job.node or host}, {when} ---"
    for stream in (sys.stdout, sys.stderr):
        print(text, file=stream, flush=True)


def log_size(job: InJob) -> int:
    """The size of the launcher's log now, bytes: at the beginning of a start, where the notices about it begin."""
    with contextlib.suppress(OSError):
        return job.log.stat().st_size if job.log is not None else 0
    return 0


def began(job: InJob) -> float | None:
    """When a start got its machines: as its launcher says, else when this process began."""
    return None if job.in_process else job.began or start_time(os.getpid())
