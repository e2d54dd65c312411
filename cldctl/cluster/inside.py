"""Inside a Slurm job: who it is, why it is being ended, and whether it should go on by itself afterwards."""

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cld_core.run import Attempt, RunFolder, attempts_of
from cld_core.stop import StopCode

from . import slurm

# Slurm may send the signal of the time limit up to a minute early.
_EARLY_S = 90.0
# Seconds before a crashed job begins again; doubled with every crash in a row.
BACK_OFF_S = 10.0
# Causes of an attempt's end that another start may get past.
CRASHES = ("crashed", "out_of_memory", "killed")


def job_id() -> str:
    """The id of this job, ARRAY_TASK for a task of an array: to requeue a bare array id requeues every task."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def restarts() -> int:
    """How often Slurm has started this job before; unset at the first start."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def port(folder: RunFolder) -> int:
    """Where the ranks meet: the same for all of a start, another at the next start, should this one be taken.

    submitit's own depends on the job id alone, and lies among those that the kernel gives to outgoing connections.
    """
    return random.Random(f"{folder.path} {job_id()} {restarts()}").randrange(20000, 32768)


def log_file(folder: RunFolder) -> Path:
    """Where slurmstepd writes its notices: the error log of rank 0, which is also the batch script's."""
    return folder.logs / f"{job_id()}_0_log.err"


def cause_of(folder: RunFolder, code: StopCode) -> str | None:
    """What a signal stands for, by the notice in the log and by what the controller knows."""
    job = slurm.show_job(os.environ["SLURM_JOB_ID"])
    if job.get("PreemptTime", "None") not in ("None", "Unknown", ""):
        return "preempted"
    if code is StopCode.USR2:
        notice = float(os.environ.get("CLDCTL_SIGNAL_S", "90"))
        return "timeout" if _seconds_left(job) < notice + _EARLY_S else "preempted"
    noticed = slurm.notice_in(_log_since(folder))
    if noticed not in (None, "cancelled"):
        return noticed
    if int(job.get("Restarts", restarts())) > restarts():
        return slurm.notice_in(_wait_for_reason(folder)) or "requeued"
    if "COMPLETING" in job.get("JobState", "") or job.get("JobState") == "CANCELLED":
        return "timeout" if 0 <= -_seconds_left(job) < 60 and _limit_reached(job) else "cancelled"
    return None


def explain_previous(folder: RunFolder) -> None:
    """Find out why the attempt before this one ended, where it could not say so itself, and write it down."""
    attempts = attempts_of(folder.ledger.events())
    if not attempts:
        return
    last = attempts[-1]
    if last.cause not in (None, "killed", "crashed", "terminated"):
        return
    if _requeued_by_us(folder, last):
        return  # Its cause is known, and what Slurm says since is our own requeue.
    cause = why_ended(folder, last)
    if cause is not None and cause != last.cause:
        folder.ledger.append("explained", attempt=last.attempt, cause=cause)


def why_ended(folder: RunFolder, attempt: Attempt) -> str | None:
    """What accounting or, without it, the log says of the end of an attempt; None where neither does."""
    started = [
        event
        for event in folder.ledger.events()
        if event["event"] == "started" and event.get("attempt") == attempt.attempt
    ][-1]
    if "log_offset" not in started:
        return None
    log = folder.logs / f"{attempt.job_id}_0_log.err"
    noticed = slurm.notice_in(_read_from(log, int(started["log_offset"])))
    if noticed not in (None, "cancelled"):
        return noticed
    states = slurm.states_of_starts(str(attempt.job_id))
    restart = int(started.get("restart", 0))
    if restart < len(states):
        # A job that ended by itself within the grace time is COMPLETED or FAILED: that is no cause.
        cause = slurm.CAUSE_OF_STATE.get(states[restart])
        if cause not in (None, "crashed"):
            return cause
    # srun --kill-on-bad-exit leaves the same notice as scancel.
    return None if attempt.cause == "crashed" else noticed


def begin(folder: RunFolder) -> None:
    """What rank 0 does before it trains: find out about the last end, and provide for the next."""
    explain_previous(folder)
    if folder.recipe().cluster.successor:
        from . import successor

        successor.submit(folder)


def requeue_task() -> bool:
    """Requeue this job, or this task of an array and no other; returns whether it waits now."""
    problem = slurm.requeue(job_id())
    if problem is not None:
        print(f"could not requeue job {job_id()}: {problem}", flush=True)
    return problem is None


def go_on(folder: RunFolder, cause: str) -> bool:
    """Requeue this job and say so in the ledger; returns whether it waits now.

    A time limit that came before a single step was done would come again: that ends it.
    """
    attempts = attempts_of(folder.ledger.events())
    if cause == "timeout" and attempts and attempts[-1].last_step == attempts[-1].first_step:
        text = "the time limit came before a single step; set cluster.time_min higher and resume"
        folder.ledger.append("given_up", reason=text)
        print(f"{folder.name}: {text}", flush=True)
        return False
    # First the ledger: the requeue ends this process.
    folder.ledger.append("requeued", job_id=job_id(), cause=cause)
    done = requeue_task()
    if not done:
        folder.ledger.append("given_up", reason="the job could not be requeued; see cldctl logs")
    return done


def crashes_in_a_row(events: Sequence[dict[str, Any]]) -> int:
    """How many of the last attempts crashed without getting further than where they began, or before they began."""
    count, best = 0, None
    for attempt in reversed(attempts_of(events)):
        if attempt.cause not in CRASHES:
            break
        if best is not None and attempt.first_step < best:
            break  # The attempt after this one began further on, so this one had saved progress.
        best = attempt.first_step
        count += 1
    started = [place for place, event in enumerate(events) if event["event"] == "started"]
    early = [event for event in events[started[-1] if started else 0 :] if event["event"] == "died_early"]
    return count + len(early)


def _requeued_by_us(folder: RunFolder, attempt: Attempt) -> bool:
    return any(
        event["event"] == "requeued" and event["time"] >= attempt.started and event["job_id"] == attempt.job_id
        for event in folder.ledger.events()
    )


def _seconds_left(job: dict[str, str]) -> float:
    """Until the job's end as the controller has it; negative afterwards, large where it does not say."""
    try:
        return time.mktime(time.strptime(job["EndTime"], "%Y-%m-%dT%H:%M:%S")) - time.time()
    except (KeyError, ValueError):
        end = os.environ.get("SLURM_JOB_END_TIME")
        return float(end) - time.time() if end else 1e9


def _limit_reached(job: dict[str, str]) -> bool:
    return job.get("JobState", "").startswith("TIMEOUT") or job.get("Reason") == "TimeLimit"


def _log_since(folder: RunFolder) -> str:
    """The notices since the newest attempt began."""
    mine = [event for event in folder.ledger.events() if event["event"] == "started"]
    return _read_from(log_file(folder), int(mine[-1].get("log_offset", 0)) if mine else 0)


def hung(folder: RunFolder) -> bool:
    """Whether the watchdog (faulthandler) ended rank 0 in this attempt, and left the stacks in its log."""
    return "Timeout (" in _log_since(folder)


def _wait_for_reason(folder: RunFolder, seconds: float = 1.0) -> str:
    """The log since this attempt began, once a reason stands in it; slurmstepd writes at its own pace."""
    deadline = time.monotonic() + seconds
    while " DUE TO " not in (text := _log_since(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return text


def _read_from(path: Path, offset: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")
    except OSError:
        return ""
