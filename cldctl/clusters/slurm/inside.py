"""A task of a Slurm job seen from inside: who it is, what a signal means, and how it begins again."""

import os
import random
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from cld_core.rendezvous import Place
from cld_core.run.events import Cause
from cld_core.run.history import Attempt
from cld_core.sanitize import is_count
from cld_core.stop import StopCode
from cldctl.clusters import submitit_jobs
from cldctl.clusters.base import InJob, read_from

from . import client, polling, submission

# Slurm may send the signal of the time limit up to a minute early.
_EARLY_S = 90.0
_NOT_PREEMPTED = ("None", "Unknown", "")
# How long slurmstepd, which writes at its own pace, may take to say why a job was requeued.
_NOTICE_WITHIN_S = 1.0


def job_id(environment: Mapping[str, str]) -> str:
    """The id of this job, ARRAY_TASK for a task of an array: to requeue a bare array id requeues every task."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment["SLURM_JOB_ID"]


def task(environment: Mapping[str, str]) -> int:
    """The number of this task in its array; 0 without one."""
    return int(environment.get("SLURM_ARRAY_TASK_ID") or 0)


def restarts(environment: Mapping[str, str]) -> int:
    """How often Slurm has started this job before; the variable is not set at the first start."""
    return int(environment.get("SLURM_RESTART_COUNT") or 0)


def began(environment: Mapping[str, str]) -> float | None:
    """When this start of the job got its nodes; None if Slurm does not say, as before 23.02."""
    text = environment.get("SLURM_JOB_START_TIME", "")
    return float(text) if is_count(text) else None


def log_file(logs: Path, job: str) -> Path:
    """Where slurmstepd writes its notices: the error log of rank 0, which is also that of the batch script."""
    return logs / f"{job}_0_log.err"


class SlurmJob(InJob):
    def place(self) -> Place:
        return submitit_jobs.place(f"tcp://{submission.first_host()}:{self._port()}")

    def _port(self) -> int:
        """Where the ranks meet: the same for all of a start, another one at the next, in case this one is taken.

        submitit's own depends on the job id alone, and lies among those that the kernel gives to outgoing connections.
        """
        # By its logs too: the node may belong to several clusters, which count their jobs alike.
        return random.Random(f"{self.ref.job_id} {self.restart} {self.ref.logs}").randrange(20000, 32768)

    def cause_of(self, code: StopCode, log_offset: int) -> Cause | None:
        """What a signal means, by the notice in the log and by what the controller knows."""
        job = client.show_job(os.environ["SLURM_JOB_ID"])
        if job.get("PreemptTime", "None") not in _NOT_PREEMPTED:
            return "preempted"
        if code is StopCode.USR2:
            return "timeout" if _seconds_left(job) < _notice_s() + _EARLY_S else "preempted"
        noticed = polling.notice_in(self.log_since(log_offset))
        if noticed not in (None, "cancelled"):
            return noticed
        if (client.restarts_of(job) or 0) > self.restart:
            return polling.notice_in(self._log_with_a_reason(log_offset)) or "requeued"
        if "COMPLETING" in job.get("JobState", "") or job.get("JobState") == "CANCELLED":
            return "timeout" if 0 <= -_seconds_left(job) < 60 and _limit_reached(job) else "cancelled"
        return None

    def why_ended(self, attempt: Attempt) -> Cause | None:
        """What the log or else accounting says about the end of an attempt of this job or an earlier one."""
        if attempt.log_offset is None or attempt.job_id is None:
            return None
        noticed = polling.notice_in(read_from(log_file(Path(self.ref.logs), attempt.job_id), attempt.log_offset))
        if noticed not in (None, "cancelled"):
            return noticed
        states = polling.states_of_starts(attempt.job_id)
        if attempt.restart < len(states):
            # A job that exited on its own within the grace time is COMPLETED or FAILED, which is not a cause.
            cause = polling.CAUSE_OF_STATE.get(states[attempt.restart])
            if cause not in (None, "crashed"):
                return cause
        # srun --kill-on-bad-exit leaves the same notice as scancel.
        return None if attempt.cause == "crashed" else noticed

    def late_notice_s(self) -> float | None:
        """The signal of the limit goes to steps, up to a minute early: before the first step began, nobody heard it."""
        end = os.environ.get("SLURM_JOB_END_TIME", "")
        left, notice = (float(end) if is_count(end) else 1e12) - time.time(), _notice_s()
        return max(left - notice, left / 2, 0.0) if left < notice + _EARLY_S else None

    def requeue(self, *, delay_s: float = 0.0, exclude: Sequence[str] = (), readmit: Sequence[str] = ()) -> None:
        client.requeue(self.ref.job_id, self.restart, delay_s=delay_s, exclude=exclude, readmit=readmit)

    def usable_nodes(self, without: Collection[str] = ()) -> int | None:
        job = client.show_job(self.ref.job_id)
        return client.usable_nodes(job["Partition"], job.get("Features"), without) if "Partition" in job else None

    def excluded_nodes(self) -> tuple[str, ...] | None:
        nodes = client.show_job(self.ref.job_id).get("ExcNodeList")
        return None if nodes is None else client.nodes_in(nodes)

    def is_cancelled(self) -> bool:
        job = client.show_job(self.ref.job_id)
        state = job.get("JobState", "")
        by_slurm = _limit_reached(job) or job.get("PreemptTime", "None") not in _NOT_PREEMPTED
        is_back = (client.restarts_of(job) or 0) > self.restart
        return ("COMPLETING" in state or state.startswith("CANCELLED")) and not by_slurm and not is_back

    def _log_with_a_reason(self, offset: int) -> str:
        """The log of this attempt, once it has a reason in it."""
        deadline = time.monotonic() + _NOTICE_WITHIN_S
        while " DUE TO " not in (text := self.log_since(offset)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return text


def _notice_s() -> float:
    """How early before its limit the job asked to be told, seconds."""
    return float(os.environ.get("CLDCTL_SIGNAL_S", "90"))


def _seconds_left(job: Mapping[str, str]) -> float:
    """Until the job's end as the controller knows it; negative after it, large if it does not say."""
    end = client.seconds_of(job.get("EndTime", ""))
    if end is None:
        known = os.environ.get("SLURM_JOB_END_TIME", "")
        end = float(known) if is_count(known) else None
    return 1e9 if end is None else end - time.time()


def _limit_reached(job: Mapping[str, str]) -> bool:
    return job.get("JobState", "").startswith("TIMEOUT") or job.get("Reason") == "TimeLimit"
