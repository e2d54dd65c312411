"""What Slurm's words about jobs mean: lines of squeue and sacct, notices in logs."""

import re

from cld_core.run.events import Cause
from cldctl.clusters.records import Phase, Seen

from . import client

_PHASES: dict[str, Phase] = {
    **dict.fromkeys(("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"), "pending"),
    **dict.fromkeys(("RUNNING", "CONFIGURING", "SIGNALING", "RESIZING"), "running"),
    **dict.fromkeys(("SUSPENDED", "STOPPED"), "suspended"),
    **dict.fromkeys(("COMPLETING", "STAGE_OUT"), "ending"),
    **dict.fromkeys(("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "DEADLINE", "PREEMPTED"), "gone"),
    **dict.fromkeys(("NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL", "OUT_OF_MEMORY"), "gone"),
}
# What the end of a job is called in the ledger. A job that ended on its own (COMPLETED) says nothing about a run.
CAUSE_OF_STATE: dict[str, Cause] = {
    "PREEMPTED": "preempted",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "OUT_OF_MEMORY": "out_of_memory",
    "CANCELLED": "cancelled",
    "REQUEUED": "requeued",
    "FAILED": "crashed",
}
# After these, a job may run again before accounting has heard of it: only squeue knows.
STARTS_AGAIN = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL")
_NOTICE = re.compile(r"\*\*\* (JOB|STEP) \S+ ON \S+ CANCELLED AT \S+(?: DUE TO ([A-Z ]+?))?(?:,.*)? \*\*\*")
_CAUSE_OF_NOTICE: dict[str, Cause] = {
    "PREEMPTION": "preempted",
    "TIME LIMIT": "timeout",
    "NODE FAILURE": "node_failure",
    "JOB REQUEUE": "requeued",
}
_JOB = re.compile(r"[0-9]+(?:[_+][0-9]+)?")
_ROW = re.compile(rf"({_JOB.pattern})\|([^|]*)\|([^|]*)\|(.*)")
# Slurm's own lines, or the error that torch ends with on a GPU; others may speak of memory and live on.
_OUT_OF_MEMORY = re.compile(
    r"^(?:slurmstepd|slurmd|srun)\b.*(?:oom[-_]kill|exceeded (?:job |step )?memory limit|out of memory)"
    r"|^torch\.(?:cuda\.)?OutOfMemoryError:",
    re.IGNORECASE | re.MULTILINE,
)


def parse_squeue(text: str) -> dict[str, Seen]:
    """Answers of ``squeue --format='%i|%T|%N|%r'``, by job id; tasks of an array are ``ARRAY_TASK``.

    Lines of another form are left out: see `is_torn`.
    """
    rows = [match.groups() for line in text.splitlines() if (match := _ROW.fullmatch(line.strip()))]
    return {job: seen_of(state, node, reason) for job, state, node, reason in rows}


def is_torn(text: str) -> bool:
    """Whether squeue's answer was cut off, or has lines about jobs that cannot be read.

    A job without a line may then be in the queue still.
    """
    lines = [line.strip() for line in text.splitlines()]
    return (text != "" and not text.endswith("\n")) or any(
        line[:1].isdecimal() and not _ROW.fullmatch(line) for line in lines
    )


def parse_sacct(text: str) -> dict[str, list[str]]:
    """States of every start of each job, oldest first, from ``sacct --parsable2 --duplicates``.

    Lines of another form are left out; a state that is not there is empty.
    """
    states: dict[str, list[str]] = {}
    for line in text.splitlines():
        job, bar, rest = line.strip().partition("|")
        if bar and _JOB.fullmatch(job):
            states.setdefault(job, []).append((rest.partition("|")[0].split() or [""])[0])
    return states


def seen_of(state: str, node: str = "", reason: str = "") -> Seen:
    """What one of Slurm's words for a state means, for example "CANCELLED by 0".

    Nothing is concluded from an unknown word: whoever believes that a job is gone starts another one.
    """
    word = (state.split() or [""])[0].rstrip("+")
    phase = _PHASES.get(word, "unknown")
    if phase == "unknown":
        reason = f"Slurm calls its state {word!r}"
    elif phase == "suspended":
        reason = "suspended by Slurm: its processes stand still until it lets them continue"
    elif phase != "pending" or reason == "None":
        reason = ""
    return Seen(phase, CAUSE_OF_STATE.get(word) if phase == "gone" else None, node, reason, word)


def states_of_starts(job_id: str) -> list[str]:
    """From accounting, the state in which every start of a job ended, oldest first; empty without accounting."""
    return parse_sacct(client.sacct("JobID,State", [job_id]) or "").get(job_id, [])


def notice_in(log: str) -> Cause | None:
    """The cause in slurmstepd's last notice in a log: "... CANCELLED AT ... DUE TO PREEMPTION ***".

    Returns:
        "cancelled" for a notice about the job without a reason, which is what scancel leaves; one about a step is
        also left by srun's --kill-on-bad-exit, and says nothing. None without a notice.
    """
    notices = [(match[1], match[2]) for match in _NOTICE.finditer(log)]
    reasons = [reason for _, reason in notices if reason is not None]
    if reasons:
        return _CAUSE_OF_NOTICE.get(reasons[-1].strip(), "killed")
    if _OUT_OF_MEMORY.search(log):
        return "out_of_memory"
    return "cancelled" if ("JOB", None) in notices else None
