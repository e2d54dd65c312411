"""What every process of a job does around its work, and where the output of a start begins."""

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cld_core import files
from cld_core.errors import CldError, SolverError, UnfitError, UnusableSamplesError
from cld_core.files import passes, retried
from cld_core.stop import StopCode, StopFlag
from cldctl.clusters.base import InJob

# Exit code of a process if another start would end in the same way; after a crash, it is 1.
HOPELESS = 6
# Exit code of a job that could not be requeued: it has failed, so that a successor begins, but not
# crashed.
NOT_REQUEUED = 7
# Exit code of a process whose machine is not fit to train on.
UNFIT = 8
# Exit code of a process that could not write its wish, or could not read the files of its work.
BLIND = 9
# Seconds for which a job waits for the file system to read what it needs.
READ_WITHIN_S = 60.0
# Seconds for which writing a line of a ledger is retried if others need the line.
NOTE_WITHIN_S = 10.0
_HOPELESS_ERRORS = (UnusableSamplesError, SolverError)
# The first line that a start prints, after what submitit prints about the process. The lines above
# may be about the end of the start before.
_BEGINS = rb"[^\n]{0,200}Starting with JobEnvironment"
_SUBMITIT = (
    rb"(?:submitit "
    + _BEGINS
    + rb"[^\n]{0,2000}\n(?:submitit (?!"
    + _BEGINS
    + rb")[^\n]{1,2000}\n){0,8})?"
)
MARK = re.compile(
    rb"^"
    + _SUBMITIT
    + rb"--- start (?P<restart>[0-9]{1,9}) of job \S+: rank [0-9]+ on \S+, \S+ ---\r?\n",
    re.MULTILINE,
)


# Whether a job inside a command hides its progress (`cldctl -q`).
quiet = False


def log(text: str) -> None:
    """Print a line into the error log of a job."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def one_line_errors(job: InJob) -> Iterator[None]:
    """Errors that name their fix need no traceback, and the process ends with their exit code.

    Inside a command they propagate, and stdout, which is the command's own for data, is left alone.
    """
    if job.in_process:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere if quiet else sys.stderr),
        ):
            yield
        return
    try:
        yield
    except CldError as error:
        log(f"error: {error}")
        if isinstance(error, UnfitError):
            # At once, although a check hangs in one of its threads: a driver, or a network file
            # system.
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(UNFIT)
        sys.exit(HOPELESS if isinstance(error, _HOPELESS_ERRORS) else error.exit_code)
    except OSError as error:
        if not passes(error):
            raise
        # As after a crash: another start may succeed.
        log(f"error: {error}. The next start tries again.")
        sys.exit(1)


def stop_before_limit(job: InJob, stop: StopFlag) -> None:
    """Stop a job before its time limit if the notice may have come during the setup."""
    seconds = job.late_notice_s() if job.ref.restarts and job.place().rank == 0 else None
    if seconds is not None:
        timer = threading.Timer(seconds, stop.request, (StopCode.USR2,))
        timer.daemon = True
        timer.start()


def readable(file: Path, within_s: float = READ_WITHIN_S) -> None:
    """Wait until a file can be read. A file that is missing for good is left to its readers.

    Raises:
        OSError: the file system fails for too long. Another start may succeed.
    """
    try:
        retried(lambda: files.read_bytes(file), within_s)
    except OSError as error:
        if passes(error):
            raise


@contextlib.contextmanager
def exit_unless_written(job: InJob) -> Iterator[None]:
    """End the process with `BLIND` if the block cannot write a wish."""
    try:
        yield
    except OSError as error:
        log(f"job {job.ref.job_id}: its wish for a requeue cannot be written: {error}")
        sys.exit(BLIND)


def begin(job: InJob) -> None:
    """Print the line from which on the output is that of this start, on both streams; not inside a
    command."""
    if job.in_process:
        return
    when = time.strftime("%Y-%m-%dT%H:%M:%S")
    host = "".join(socket.gethostname().split()) or "?"
    text = (
        f"--- start {job.restart} of job {job.ref.job_id}: rank {job.place().rank} on "
        f"{job.node or host}, {when} ---"
    )
    for stream in (sys.stdout, sys.stderr):
        print(text, file=stream, flush=True)


def log_size(job: InJob) -> int:
    """The size of the launcher's log, bytes. At the beginning of a start, its notices follow."""
    with contextlib.suppress(OSError):
        return job.log.stat().st_size if job.log is not None else 0
    return 0
