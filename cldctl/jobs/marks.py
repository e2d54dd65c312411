"""Where a start of a job begins: in time, and in the logs of its ranks, to which a later start of the job appends."""

import contextlib
import os
import re
import socket
import sys
import time

from cld_core.run.process import start_time
from cldctl.clusters.base import InJob

# The line at the head of what a start prints, with what submitit says before it about this very process: the lines
# above may be about the end of the one before.
_BEGINS = rb"[^\n]{0,200}Starting with JobEnvironment"
_SUBMITIT = rb"(?:submitit " + _BEGINS + rb"[^\n]{0,2000}\n(?:submitit (?!" + _BEGINS + rb")[^\n]{1,2000}\n){0,8})?"
MARK = re.compile(
    rb"^" + _SUBMITIT + rb"--- start (?P<restart>[0-9]{1,9}) of job \S+: rank [0-9]+ on \S+, \S+ ---\r?\n", re.MULTILINE
)


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
