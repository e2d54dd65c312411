"""A task of Slurm seen from inside: who it is, what signals and notices mean, and what it wishes
for."""

import contextlib
import os
import random
import re
import time
from collections.abc import Mapping
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

# Where slurmstepd writes its notices: the error log of rank 0, which is also that of the batch
# script.
_LOG = "0_log.err"
# Slurm may send the signal of the time limit up to a minute early.
_EARLY_S = 90.0
_ANSWER_WITHIN_S = 5.0
_UPTIME = Path("/proc/uptime")
_NOT_PREEMPTED = ("None", "Unknown", "")
# How long slurmstepd, which writes at its own pace, may take to say why a job was requeued.
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
# What slurmstepd writes when it ends ranks whose batch script was killed, or failed, before them.
_SCRIPT_ENDED = re.compile(r"\*\*\* STEP \S+\.0 ON \S+ FAILED \(")
# What Slurm calls that. Of every end but a cancellation, it names a reason.
_SCRIPT_ENDED_REASONS = ("RaisedSignal", "NonZeroExitCode")
# Slurm's own lines, or the error that torch ends with on a GPU; others may speak of memory and live
# on.
_OUT_OF_MEMORY = re.compile(
    r"^(?:slurmstepd|slurmd|srun)\b.*(?:oom[-_]kill|exceeded (?:job |step )?memory limit|out of "
    r"memory)"
    r"|^torch\.(?:cuda\.)?OutOfMemoryError:",
    re.IGNORECASE | re.MULTILINE,
)


def current(cluster: base.Cluster, logs: Path | None) -> "SlurmJob":
    """The task of this cluster that this process belongs to, from its environment; see
    `Cluster.current_job`."""
    logs = logs or Path(os.environ["SUBMITIT_FOLDER"])
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    # To requeue a bare array id requeues every task.
    job_id = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    ref = JobRef(cluster=cluster.name, job_id=job_id, logs=str(logs), restarts=cluster.restarts)
    start = os.environ.get("SLURM_JOB_START_TIME", "")
    return SlurmJob(
        cluster=cluster,
        ref=ref,
        task=int(task or 0),
        # The variable is not set at the first start.
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        node=os.environ.get("SLURMD_NODENAME", ""),
        log=file_of(ref, _LOG),
        # Slurm does not say it before 23.02.
        began=float(start) if is_count(start) else None,
    )


class SlurmJob(base.InJob):
    def place(self) -> Place:
        import submitit

        return local_processes.place(
            f"tcp://{submitit.JobEnvironment().hostnames[0]}:{self._port()}"
        )

    def _port(self) -> int:
        """Where the ranks meet: the same for all of a start, another one at the next, in case this
        one is taken.

        submitit's own depends on the job id alone, and lies among those that the kernel gives to
        outgoing connections.
        """
        # By its logs too: the node may belong to several clusters, which count their jobs alike.
        return random.Random(f"{self.ref.job_id} {self.restart} {self.ref.logs}").randrange(
            20000, 32768
        )

    def cause_of(self, code: StopCode, log_offset: int) -> Cause | None:
        """What a signal means, by the notice in the log and by what the controller knows."""
        # A container may have no client, or one that finds no controller: the ranks are about to be
        # killed.
        job = client.show_job(self.ref.job_id, _ANSWER_WITHIN_S)
        if job.get("PreemptTime", "None") not in _NOT_PREEMPTED:
            return "preempted"
        if code is StopCode.USR2 and _seconds_left(job) < _notice_s() + _EARLY_S:
            return "timeout"
        noticed = notice_in(self.log_since(log_offset))
        if noticed not in (None, "cancelled"):
            return noticed
        if client.restarts_of(job) > self.restart:
            return notice_in(self._log_with_a_reason(log_offset)) or "requeued"
        return _cause_of_end(job)

    def why_ended(self, attempt: Attempt) -> Cause | None:
        """What the log or else accounting says about the end of an attempt of this job or an
        earlier one."""
        if attempt.log_offset is None or attempt.job_id is None:
            return None
        ref = replace(self.ref, job_id=attempt.job_id)
        # Seen before the job's own requeue, which is the last notice.
        shown = _shown(ref)
        is_of_it = client.restarts_of(shown) == attempt.restart
        if is_of_it and shown.get("PreemptTime", "None") not in _NOT_PREEMPTED:
            return "preempted"
        noticed = notice_in(read_from(file_of(ref, _LOG), attempt.log_offset))
        if noticed not in (None, "cancelled"):
            return noticed
        # From accounting, the state in which every start ended, oldest first.
        states = poll.parse_sacct(client.sacct("JobID,State", [attempt.job_id]) or "").get(
            attempt.job_id, []
        )
        if attempt.restart < len(states):
            # A job that exited on its own within the grace time is COMPLETED or FAILED, which is
            # not a cause.
            cause = poll.CAUSE_OF_STATE.get(states[attempt.restart])
            if cause not in (None, "crashed"):
                return cause
        # srun --kill-on-bad-exit leaves the same notice as scancel.
        return None if attempt.cause == "crashed" else noticed

    def late_notice_s(self) -> float | None:
        """The signal of the limit goes to steps, up to a minute early: before the first step began,
        nobody heard it."""
        left, notice = _seconds_left({}), _notice_s()
        return max(left - notice, left / 2, 0.0) if left < notice + _EARLY_S else None

    def wish(self, wish: base.Wish) -> None:
        """For the batch script (`follow.sh`), which carries it out on the node when srun has
        ended."""
        lines = {
            "delay": "" if wish.delay_s is None else str(round(wish.delay_s)),
            "avoid": ",".join(wish.avoid),
            "readmit": ",".join(wish.readmit),
            "only": "limit" if wish.after_limit else "",
            "decided": "yes",
        }
        text = "".join(f"{name} {value}\n" for name, value in lines.items() if value)
        write_text(file_of(self.ref, f"wish_{self.restart}"), text)

    def successor(self) -> JobRef | None:
        return successor_of(self.ref)

    def nodes(self) -> Nodes | None:
        """By what the batch script has seen: there may be no client inside."""
        job = _shown(self.ref)
        excluded, mark, rows = read_from(file_of(self.ref, "nodes"), 0).partition("--\n")
        usable = client.usable_nodes(rows, job.get("Partition"), job.get("Features"))
        return None if usable is None or not mark else Nodes(usable, excluded.split())

    def _log_with_a_reason(self, offset: int) -> str:
        """The log of this attempt, once it has a reason in it."""
        deadline = time.monotonic() + _NOTICE_WITHIN_S
        while " DUE TO " not in (text := self.log_since(offset)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return text


def file_of(job: JobRef, what: str) -> Path:
    """A file of a job beside its logs, which its batch script knows, too."""
    return Path(job.logs) / f"{job.job_id}_{what}"


def _shown(job: JobRef) -> dict[str, str]:
    """What `scontrol show job` said to the batch script when the last start of the job ended; empty
    if nothing."""
    return client.pairs_in(read_from(file_of(job, "shown"), 0))


def wished_at(job: JobRef) -> float | None:
    """When a job asked to be requeued, seconds since 1970; None if it has begun since."""
    with contextlib.suppress(OSError):
        files = Path(job.logs).glob(f"{job.job_id}_wish_*") if job.logs else ()
        return max((file.stat().st_mtime for file in files), default=None)
    return None


def successor_of(job: JobRef) -> JobRef | None:
    """The job that was submitted to begin if this one ends badly."""
    with contextlib.suppress(OSError):
        job_id = file_of(job, "successor").read_text().strip() if job.logs else ""
        return replace(job, job_id=job_id) if client.is_job_id(job_id) else None
    return None


def _notice_s() -> float:
    """How early before its limit the job asked to be told, seconds."""
    return float(os.environ.get("CLDCTL_SIGNAL_S", "90"))


def _seconds_left(job: Mapping[str, str]) -> float:
    """Until the job's end as the controller knows it; negative after it, large if it does not say.

    Counted from the start of the batch script on this node: its time of day may be wrong by hours.
    """
    times = [client.seconds_of(job.get(f"{which}Time", "")) for which in ("Start", "End")]
    if None in times:
        known = [os.environ.get(f"SLURM_JOB_{which}_TIME", "") for which in ("START", "END")]
        times = [float(text) if is_count(text) else None for text in known]
    start, end = times
    if start is None or end is None:
        return 1e9
    # From the same file as the script: where a node is a container itself, CLOCK_BOOTTIME is that
    # of its host.
    booted, now = os.environ.get("CLDCTL_BOOT_S", ""), read_from(_UPTIME, 0).partition(".")[0]
    passed = (
        float(now) - float(booted) if is_count(booted) and is_count(now) else time.time() - start
    )
    return end - start - passed


def _cause_of_end(job: Mapping[str, str]) -> Cause | None:
    """Why a job is ending, by `client.show_job`; None if it is not, or for another reason."""
    state = job.get("JobState", "")
    reason = job.get("Reason", "None").partition(":")[0]
    if state != "CANCELLED" and "COMPLETING" not in state:
        return None
    if state.startswith("TIMEOUT") or reason == "TimeLimit":
        return "timeout"
    if reason in _SCRIPT_ENDED_REASONS:
        return "killed"
    return "cancelled" if reason == "None" else None


def notice_in(log: str) -> Cause | None:
    """The cause in slurmstepd's last notice in a log: "... CANCELLED AT ... DUE TO PREEMPTION ***".

    Returns:
        "killed" if the batch script ended before the ranks.
        "cancelled" for a notice about the job without a reason, which is what scancel leaves; one
        about a step is
        also left by srun's --kill-on-bad-exit, and says nothing. None without a notice.
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
