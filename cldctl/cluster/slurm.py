"""Slurm's clients, and what their answers mean. Every call has a time limit; a controller may be away."""

import os
import re
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

CLIENT_TIMEOUT_S = 15.0

# Slurm's words for a job that is still to do something, and for one that waits.
_WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
_ACTIVE = frozenset(
    {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
)
# What the end of a job is called in the ledger.
CAUSE_OF_STATE = {
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
_NOTICE = re.compile(r"\*\*\* (JOB|STEP) \S+ ON \S+ CANCELLED AT \S+(?: DUE TO ([A-Z ]+?))?(?:,.*)? \*\*\*")
_CAUSE_OF_NOTICE = {
    "PREEMPTION": "preempted",
    "TIME LIMIT": "timeout",
    "NODE FAILURE": "node_failure",
    "JOB REQUEUE": "requeued",
}
# Slurm's own lines, or the error that torch ends with on a GPU; others may speak of memory and live on.
_OUT_OF_MEMORY = re.compile(
    r"^(?:slurmstepd|slurmd|srun)\b.*(?:oom[-_]kill|exceeded (?:job |step )?memory limit|out of memory)"
    r"|^torch\.(?:cuda\.)?OutOfMemoryError:",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Seen:
    """What a scheduler says of a job: ``phase`` is pending, running, gone or unknown; ``word`` is its own.

    ``reason``: why it waits, in Slurm's words.
    """

    phase: str
    word: str = ""
    node: str = ""
    reason: str = ""

    @property
    def over(self) -> bool:
        return self.phase == "gone"


UNKNOWN = Seen("unknown")


@dataclass(frozen=True)
class Survey:
    """Answers for many jobs at once; ``problem`` says what was out of reach."""

    jobs: Mapping[str, Seen]
    problem: str | None = None

    def of(self, job_id: str) -> Seen:
        return self.jobs.get(job_id, UNKNOWN)


def survey(job_ids: Iterable[str], settled: Collection[str] = ()) -> Survey:
    """Ask for all jobs by one squeue and, for those that it has forgotten, one sacct.

    settled: jobs of which everything is known but whether Slurm has them still; accounting is not asked about those.
    """
    wanted = sorted(set(job_ids))
    if not wanted:
        return Survey({})
    queue = _client(["squeue", "--all", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r"])
    found = parse_squeue(queue or "")
    for job in settled:
        found.setdefault(job, Seen("gone"))
    missing = [job for job in wanted if job not in found and "_" not in job]
    missing += sorted({job.split("_")[0] for job in wanted if job not in found and "_" in job})
    problem = None if queue is not None else "slurmctld does not answer: states are the last that the runs wrote"
    if missing:
        accounts = _sacct("JobID,State,NodeList", missing)
        for job, states in parse_sacct(accounts or "").items():
            found.setdefault(job, seen_of(states[-1]))
    for job in wanted:
        if job not in found and queue is not None:
            # Slurm has forgotten it. With accounting that is an answer; without, a job that is not queued is over.
            found[job] = Seen("gone")
    return Survey(found, problem)


def parse_squeue(text: str) -> dict[str, Seen]:
    """Answers of ``squeue --format='%i|%T|%N|%r'``, by job id; tasks of an array are ``ARRAY_TASK``."""
    found = {}
    for line in text.splitlines():
        parts = line.strip().split("|", 3)
        if len(parts) == 4:
            found[parts[0]] = seen_of(*parts[1:])
    return found


def parse_sacct(text: str) -> dict[str, list[str]]:
    """States of every start of each job, oldest first, from ``sacct --parsable2 --duplicates``."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) >= 2 and parts[0]:
            found.setdefault(parts[0], []).append(parts[1].split()[0])
    return found


def seen_of(state: str, node: str = "", reason: str = "") -> Seen:
    """The phase of one of Slurm's words for a state, for example "CANCELLED by 0"."""
    word = state.split()[0].rstrip("+") if state else ""
    if word in _WAITING:
        return Seen("pending", word, node, "" if reason == "None" else reason)
    if word in _ACTIVE:
        return Seen("running", word, node)
    return Seen("gone", word, node)


def show_job(job_id: str) -> dict[str, str]:
    """`scontrol show job` as a dictionary; empty where the controller does not know or answer."""
    text = _client(["scontrol", "--oneliner", "show", "job", job_id]) or ""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def requeue(job_id: str) -> str | None:
    """Put a job back into the queue; None when done, otherwise why not. A job that waits already is done."""
    code, text = run_client(["scontrol", "requeue", job_id])
    if code == 0 or "pending" in text.lower() or seen_of(show_job(job_id).get("JobState", "")).phase == "pending":
        return None
    return text.strip() or f"scontrol requeue {job_id} ended with {code}"


def submitted_since(name: str, when: float) -> list[str] | None:
    """Ids of this user's jobs of a name that were submitted after ``when``, seconds; None without an answer."""
    text = _client(["squeue", "--me", "--noheader", f"--name={name}", "--format=%A|%V"])
    if text is None:
        return None
    jobs = [line.strip().split("|") for line in text.splitlines() if "|" in line]
    return sorted({job for job, at in jobs if time.mktime(time.strptime(at, "%Y-%m-%dT%H:%M:%S")) >= int(when)})


def delay(job_id: str, seconds: float) -> None:
    """Let a waiting job begin no earlier than in ``seconds``."""
    run_client(["scontrol", "update", f"jobid={job_id}", f"starttime=now+{round(seconds)}"])


def set_dependency(job_id: str, dependency: str) -> str | None:
    """Give a waiting job, or array, another condition to begin; None when done, otherwise why not."""
    code, text = run_client(["scontrol", "update", f"jobid={job_id}", f"dependency={dependency}"])
    return None if code == 0 else text.strip()


def cancel(job_ids: Sequence[str]) -> str | None:
    """scancel; None when done, otherwise what it said."""
    code, text = run_client(["scancel", *job_ids])
    return None if code == 0 else text.strip()


def notice_in(log: str) -> str | None:
    """The cause that slurmstepd's last notice in a log tells of: "... CANCELLED AT ... DUE TO PREEMPTION ***".

    "cancelled" for a notice about the job without a reason, which is what scancel leaves; one about a step is left by
    srun's --kill-on-bad-exit, too, and says nothing. None without a notice.
    """
    found = [(match[1], match[2]) for match in _NOTICE.finditer(log)]
    with_reason = [reason for _, reason in found if reason is not None]
    if with_reason:
        return _CAUSE_OF_NOTICE.get(with_reason[-1].strip(), "killed")
    if _OUT_OF_MEMORY.search(log):
        return "out_of_memory"
    return "cancelled" if ("JOB", None) in found else None


def states_of_starts(job_id: str) -> list[str]:
    """From accounting, the state in which every start of a job ended, oldest first; empty without accounting."""
    text = _sacct("JobID,State", [job_id])
    return parse_sacct(text or "").get(job_id, [])


def _sacct(fields: str, job_ids: Sequence[str]) -> str | None:
    return _client(
        [
            *("sacct", "--allocations", "--noheader", "--duplicates", "--parsable2", "--starttime=now-90days"),
            *(f"--format={fields}", "--jobs", ",".join(job_ids)),
        ]
    )


def _client(command: list[str]) -> str | None:
    """What a client prints; None where it fails, does not answer or does not exist."""
    code, text = run_client(command)
    return text if code == 0 else None


def run_client(command: list[str]) -> tuple[int, str]:
    """Exit code and output of one of Slurm's clients; -1 where it does not answer in time or does not exist."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=CLIENT_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "SLURM_TIME_FORMAT": "standard"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr
