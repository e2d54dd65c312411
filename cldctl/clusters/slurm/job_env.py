"""A task of Slurm seen from inside: its identity, what signals and notices mean, and its wishes."""

import contextlib
import math
import os
import random
import re
import time
from dataclasses import replace
from pathlib import Path

from cld_core.files import write_text
from cld_core.rendezvous import Place
from cld_core.run.events import Cause, JobRef
from cld_core.run.history import Attempt
from cld_core.sanitize import is_count
from cld_core.stop import StopCode
from cldctl.clusters import base, local_processes
from cldctl.clusters.base import Nodes, read_from

from . import client, poll
from .client import Facts

# The error log of rank 0 and of the batch script, to which slurmstepd writes its notices.
_LOG = "0_log.err"
# Slurm may send the signal of the time limit up to a minute early.
_EARLY_S = 90.0
_ANSWER_WITHIN_S = 5.0
_UPTIME = Path("/proc/uptime")
_NOT_PREEMPTED = ("None", "Unknown", "")
# Seconds that slurmstepd may take to write why a job was requeued.
_NOTICE_WITHIN_S = 1.0
_NOTICE = re.compile(
    r"\*\*\* (JOB|STEP) \S+ ON \S+ CANCELLED AT \S+(?: DUE TO ([A-Z ]+?))?(?:,.*)? \*\*\*"
)
_CAUSE_OF_NOTICE: dict[str, Cause] = {
    "PREEMPTION": "preempted",
    "TIME LIMIT": "timeout",
    "NODE FAILURE": "node_failure",
    "JOB REQUEUE": "requeued",
}
# slurmstepd's line when it ends ranks whose batch script was killed, or failed, before them.
_SCRIPT_ENDED = re.compile(r"\*\*\* STEP \S+\.0 ON \S+ FAILED \(")
# Slurm's reasons for that. It names a reason for every end except a cancellation.
_SCRIPT_ENDED_REASONS = ("RaisedSignal", "NonZeroExitCode")
# Lines of Slurm, or torch's last error on a GPU. Other lines about memory may not be fatal.
_OUT_OF_MEMORY = re.compile(
    r"^(?:slurmstepd|slurmd|srun)\b.*"
    r"(?:oom[-_]kill|exceeded (?:job |step )?memory limit|out of memory)"
    r"|^torch\.(?:cuda\.)?OutOfMemoryError:",
    re.IGNORECASE | re.MULTILINE,
)


def current(cluster: base.Cluster, logs: Path | None) -> "SlurmJob":
    """The task that this process belongs to; see `Cluster.current_job`."""
    logs = logs or Path(os.environ["SUBMITIT_FOLDER"])
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    # `scontrol requeue` with a bare array id requeues every task.
    job_id = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    ref = cluster.ref(job_id, logs)
    return SlurmJob(
        cluster=cluster,
        ref=ref,
        task=int(task or 0),
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),  # not set at the first start
        node=os.environ.get("SLURMD_NODENAME", ""),
        log=file_of(ref, _LOG),
        began=_moment("SLURM_JOB_START_TIME"),  # not set before Slurm 23.02
    )


class SlurmJob(base.InJob):
    def place(self) -> Place:
        import submitit

        host = submitit.JobEnvironment().hostnames[0]
        return local_processes.place(f"tcp://{host}:{self._port()}")

    def _port(self) -> int:
        """The port at which the ranks meet: the next start has another, in case this one is taken.

        submitit's own depends on the job id alone, and lies among those that the kernel gives to
        outgoing connections.
        """
        # The node may belong to several clusters with the same job ids, so the logs count, too.
        key = f"{self.ref.job_id} {self.restart} {self.ref.logs}"
        return random.Random(key).randrange(20000, 32768)

    def cause_of(self, code: StopCode, log_offset: int) -> Cause | None:
        """What a signal means, by the notice in the log and by what the controller says."""
        # Time is short, since the ranks are about to be killed: a container may have no client, or
        # one that finds no controller.
        job = client.show_job(self.ref.job_id, _ANSWER_WITHIN_S)
        if job["PreemptTime"] not in _NOT_PREEMPTED:
            return "preempted"
        if code is StopCode.USR2 and _seconds_left(job) < _notice_s() + _EARLY_S:
            return "timeout"
        cause = notice_in(self.log_since(log_offset))
        if cause not in (None, "cancelled"):
            return cause
        if client.restarts_of(job) > self.restart:
            return notice_in(self._log_with_a_reason(log_offset)) or "requeued"
        return _cause_of_end(job)

    def why_ended(self, attempt: Attempt) -> Cause | None:
        """The end of an attempt of this job or an earlier one, by the log or else by accounting."""
        if attempt.log_offset is None or attempt.job_id is None:
            return None
        ref = replace(self.ref, job_id=attempt.job_id)
        # This was written before the job's own requeue, whose notice is the last in the log.
        facts = _shown(ref)
        is_same_start = client.restarts_of(facts) == attempt.restart
        if is_same_start and facts["PreemptTime"] not in _NOT_PREEMPTED:
            return "preempted"
        cause = notice_in(read_from(file_of(ref, _LOG), attempt.log_offset))
        if cause not in (None, "cancelled"):
            return cause
        # From accounting, the state in which every start ended, oldest first.
        states = poll.ended_states([attempt.job_id]).get(attempt.job_id, [])
        if attempt.restart < len(states):
            # A job that exited on its own within the grace time is COMPLETED or FAILED, which is
            # not a cause.
            cause_of_state = poll.CAUSE_OF_STATE.get(states[attempt.restart])
            if cause_of_state not in (None, "crashed"):
                return cause_of_state
        # srun --kill-on-bad-exit leaves the same notice as scancel.
        return None if attempt.cause == "crashed" else cause

    def late_notice_s(self) -> float | None:
        """Near the limit, since its signal goes to steps, up to a minute early.

        It was lost if it came before the first step began.
        """
        left = _seconds_left()
        notice = _notice_s()
        if left >= notice + _EARLY_S:
            return None
        return max(left - notice, left / 2, 0.0)

    def wish(self, wish: base.Requeue) -> None:
        """Write the wish for the batch script (`follow.sh`), which carries it out after srun."""
        lines = []
        if wish.delay_s is not None:
            lines.append(f"delay {wish.delay_s:.0f}\n")
        if wish.avoid:
            lines.append(f"avoid {','.join(wish.avoid)}\n")
        if wish.readmit:
            lines.append(f"readmit {','.join(wish.readmit)}\n")
        if wish.after_limit:
            lines.append("only limit\n")
        lines.append("decided yes\n")
        write_text(file_of(self.ref, f"wish_{self.restart}"), "".join(lines))

    def successor(self) -> JobRef | None:
        return successor_of(self.ref)

    def nodes(self) -> Nodes | None:
        """From the files of the batch script, since a container may have no client."""
        job = _shown(self.ref)
        excluded, separator, rows = read_from(file_of(self.ref, "nodes"), 0).partition("--\n")
        usable = client.usable_nodes(rows, job["Partition"], job["Features"])
        return None if usable is None or not separator else Nodes(usable, excluded.split())

    def _log_with_a_reason(self, offset: int) -> str:
        """The log of this attempt, once it has a reason, or after `_NOTICE_WITHIN_S`."""
        deadline = time.monotonic() + _NOTICE_WITHIN_S
        text = self.log_since(offset)
        while " DUE TO " not in text and time.monotonic() < deadline:
            time.sleep(0.05)
            text = self.log_since(offset)
        return text


def file_of(job: JobRef, name: str) -> Path:
    """A file of a job beside its logs, which its batch script uses, too."""
    return Path(job.logs) / f"{job.job_id}_{name}"


def _shown(job: JobRef) -> Facts:
    """`scontrol show job` in the batch script, at the end of the job's last start; may be empty."""
    return client.words_in(read_from(file_of(job, "shown"), 0))


def wished_at(job: JobRef) -> float | None:
    """When a job wished to be requeued, seconds since 1970; None if it has begun since."""
    if not job.logs:
        return None
    with contextlib.suppress(OSError):
        files = Path(job.logs).glob(f"{job.job_id}_wish_*")
        return max((file.stat().st_mtime for file in files), default=None)
    return None


def successor_of(job: JobRef) -> JobRef | None:
    """The job that was submitted to begin if this one ends badly."""
    if not job.logs:
        return None
    with contextlib.suppress(OSError):
        job_id = file_of(job, "successor").read_text().strip()
        return replace(job, job_id=job_id) if client.is_job_id(job_id) else None
    return None


def _notice_s() -> float:
    """Seconds before its limit at which the job gets the signal."""
    return float(os.environ.get("CLDCTL_SIGNAL_S", "90"))


def _seconds_left(job: Facts | None = None) -> float:
    """Seconds until the job's end, by ``job`` or the environment; infinite if they do not say.

    Negative after the end. Counted from the start of the batch script on this node, whose time of
    day may be wrong by hours.
    """
    start = client.seconds_of(job["StartTime"]) if job else None
    end = client.seconds_of(job["EndTime"]) if job else None
    if start is None or end is None:
        start = _moment("SLURM_JOB_START_TIME")
        end = _moment("SLURM_JOB_END_TIME")
    if start is None or end is None:
        return math.inf
    passed = time.time() - start
    # Uptimes are from the file that the script reads: if a node is a container itself,
    # CLOCK_BOOTTIME is that of its host.
    script_began = os.environ.get("CLDCTL_BOOT_S", "")
    uptime = read_from(_UPTIME, 0).partition(".")[0]
    if is_count(script_began) and is_count(uptime):
        passed = float(uptime) - float(script_began)
    return end - start - passed


def _moment(variable: str) -> float | None:
    """An environment variable of Slurm, in seconds since 1970; None if it is not set."""
    text = os.environ.get(variable, "")
    return float(text) if is_count(text) else None


def _cause_of_end(job: Facts) -> Cause | None:
    """Why a job is ending, by `client.show_job`; None if it is not, or for another reason."""
    state = job["JobState"]
    reason = job["Reason"].partition(":")[0]
    if state != "CANCELLED" and "COMPLETING" not in state:
        return None
    if state.startswith("TIMEOUT") or reason == "TimeLimit":
        return "timeout"
    if reason in _SCRIPT_ENDED_REASONS:
        return "killed"
    return "cancelled" if reason in ("None", "") else None


def notice_in(log: str) -> Cause | None:
    """The cause in slurmstepd's last notice in a log: "... CANCELLED AT ... DUE TO PREEMPTION ***".

    Returns:
        "killed" if the batch script ended before the ranks; "cancelled" for a notice about the job
        without a reason, which scancel leaves. A notice about a step without a reason says nothing,
        since srun's --kill-on-bad-exit leaves it, too. None without a notice.
    """
    notices = [(match[1], match[2]) for match in _NOTICE.finditer(log)]
    reasons = [reason for _, reason in notices if reason is not None]
    if reasons:
        return _CAUSE_OF_NOTICE.get(reasons[-1].strip(), "killed")
    if _OUT_OF_MEMORY.search(log):
        return "out_of_memory"
    if _SCRIPT_ENDED.search(log):
        return "killed"
    return "cancelled" if ("JOB", None) in notices else None
