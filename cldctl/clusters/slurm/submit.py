"""Submitting to Slurm: how many tasks it takes, when a job would begin, and sbatch, with what its
errors mean."""

import contextlib
import functools
import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cld_core.ownership import user_name
from cldctl.clusters import job_logs, local_processes
from cldctl.clusters.base import JobSpec, Limit, SchedulerAway, SchedulerRefused, TooManyTasks

from . import client, script

# Seconds that sbatch may take.
SBATCH_WITHIN_S = 120
# Seconds that a controller which did not answer is given to say what it has accepted.
_AWAY_S = 60.0
# Seconds after which nobody waits any more for an estimate.
_ESTIMATED_WITHIN_S = 5.0
_START = re.compile(r"to start at (\S+)")
_PREFIX = re.compile(r"sbatch: (error|fatal): ")
# What it says if nobody knows whether the job was accepted.
_UNHEARD = re.compile("timed out|no answer within", re.IGNORECASE)

# What Slurm, and nobody else, sets; a shell that hides the id of its job has the others
# nevertheless.
_MARKS = (
    "SLURM_JOB_ID",
    "SLURM_JOBID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_STEP_ID",
    "SLURM_PROCID",
)
_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_")
# Which Slurm is asked, as whom, and how its clients print. SBATCH_ variables are what a user wants
# for all their jobs.
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_TIME_FORMAT")

# The most tasks of an array if Slurm does not say: one below the default of MaxArraySize.
_UNKNOWN = 1000
_ASSOCIATION = re.compile(r"ClusterName=\S* Account=(?P<account>\S*) UserName=(?P<user>[^\s(]*)")
# What sbatch says if there would be too many jobs, by name; without a name, it may mean that.
_NAMED = re.compile(r"\b((?:Assoc|QOS)[A-Za-z]*Limit)\b")
_UNNAMED = {
    "job submit limit": "a limit on jobs of your account or QOS",
    "Invalid job array specification": "MaxArraySize",
}


def environment() -> dict[str, str]:
    """The variables for sbatch, which passes them on: those of the job that this process is in are
    left out.

    A new job would take itself for task 3 of an array or for a second start, and srun would refuse
    memory that is asked for in two ways.
    """
    is_inside = any(mark in os.environ for mark in _MARKS)
    return {
        name: value
        for name, value in os.environ.items()
        if not is_inside or name in _KEPT or not name.startswith(_PREFIXES)
    }


def expected_start(spec: JobSpec) -> Callable[[], float | None]:
    """Ask when such a job would begin, by a ``sbatch --test-only``, which submits nothing.

    Returns:
        What reads the answer, seconds since 1970. Whatever goes wrong is None: an estimate must
            neither delay a
        submission nor break it.
    """
    text, deadline = script.text(spec, 1), time.monotonic() + _ESTIMATED_WITHIN_S
    variables = {**environment(), **client.TIMES}
    said: list[str] = []

    def ask() -> None:
        answer = client.run(["sbatch", "--test-only"], text, variables, _ESTIMATED_WITHIN_S)
        said.append(answer.text + answer.errors)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()

    def answer() -> float | None:
        thread.join(max(0.0, deadline - time.monotonic()))
        found = _START.search(said[0]) if said else None
        return client.start_of(found[1]) if found else None

    return answer


def submit(
    spec: JobSpec, calls: Sequence[Callable[[], Any]], note: Callable[[Sequence[str]], None]
) -> None:
    """Submit one job, or an array if there are several ``calls``.

    Args:
        note: gets the job ids.

    Raises:
        SchedulerRefused, CldError, OSError: Slurm said no, or a file could not be written; no job
            is left.
        SchedulerAway: Slurm gave no answer.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor, began, jobs, is_asked = script.executor(spec), time.time(), [], False
    try:
        with job_logs.submission(spec.logs) as umask, _shielded(spec, umask):
            try:
                jobs = [str(job.job_id) for job in executor.submit_array(calls)]
            finally:
                # submitit writes the script just before it calls sbatch.
                is_asked = any(spec.logs.glob(".submission_file_*"))
        note(jobs)
    except (FailedJobError, FailedSubmissionError) as error:
        code = getattr(error.__cause__, "returncode", 1)
        said = (
            f"no answer within {SBATCH_WITHIN_S} s"
            if code == -signal.SIGKILL
            else str(error).strip()
        )
        raise _explained(spec, said or f"sbatch ended with {code}", began) from error
    except BaseException:
        if jobs or is_asked:
            _forget(spec, jobs, began)
        raise


@contextlib.contextmanager
def _shielded(spec: JobSpec, umask: int) -> Iterator[None]:
    """What sbatch gets of this process: its variables, no Ctrl-C, and so much time. It says what is
    wrong in its error.

    Args:
        umask: of the job.
    """
    variables = {
        **environment(),
        **local_processes.safe_path(spec.code),
        "SLURM_UMASK": f"{umask:04o}",
    }
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    timer = threading.Timer(SBATCH_WITHIN_S, _end_sbatch)
    timer.start()
    try:
        with local_processes.variables(variables), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        timer.cancel()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _end_sbatch() -> None:
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == "sbatch":
                child.kill()


def _forget(spec: JobSpec, jobs: Sequence[str], since: float) -> None:
    """Cancel jobs that no ledger knows: their submission was not finished."""
    known = sorted({job.partition("_")[0] for job in jobs or _submitted_since(spec, since) or ()})
    try:
        client.cancel(known)
    except (SchedulerRefused, SchedulerAway) as error:
        names = " ".join(known)
        about = (
            f"job {names} is not noted, and could not be cancelled; end it with `scancel {names}`"
        )
        print(f"warning: {about} ({error})", file=sys.stderr)


def _submitted_since(spec: JobSpec, since: float) -> list[str] | None:
    """As `client.submitted_since`, of this submission alone: arrays of a sweep have one name."""
    earlier = script.arrays_of(spec.earlier)
    found = client.submitted_since(spec.name, since)
    return None if found is None else [job for job in found if job not in earlier]


def _explained(spec: JobSpec, error: str, since: float) -> SchedulerRefused | SchedulerAway:
    """The error of an sbatch that failed, with what to do about it."""
    name = spec.name
    # Sites let sbatch print more than its errors.
    lines = [
        _PREFIX.sub("", line) for line in error.splitlines() if _PREFIX.match(line)
    ] or error.splitlines()
    if _UNHEARD.search(error):
        return SchedulerAway(f"slurmctld does not answer: {lines[-1]}. {_withdrawn(spec, since)}.")
    if client.AWAY.search(error):
        fix = "Try again when it does, or use --cluster local"
        return SchedulerAway(
            f"slurmctld does not answer, and the job {name} was not submitted: {lines[-1]}. {fix}."
        )
    fix = (
        "Fix the cluster.* keys or the profile (`cldctl submit --dry-run` shows the script), or "
        "use --cluster local"
    )
    refused = f"sbatch refused the job {name}: {'; '.join(lines)}"
    if (limit := _reached(error)) is None:
        return SchedulerRefused(f"{refused}. {_not_yours(spec, error) or fix}.")
    wait = (
        "You may have no more jobs in the queue: wait until some have ended, then re-run the "
        "command"
    )
    return TooManyTasks(f"{refused}. {wait if limit in error else fix}.", limit)


def _not_yours(spec: JobSpec, error: str) -> str | None:
    """What to do about an account or QOS that is not this user's; None if it is something else."""
    for key in ("account", "qos"):
        if f"Invalid {key}" in error:
            mine = ["show", "assoc", f"user={user_name(os.geteuid())}", f"format={key}"]
            listed = client.output_of(["sacctmgr", "--noheader", "--parsable2", *mine]) or ""
            names = sorted(set(re.findall(r"[^\s,]+", listed)))
            which = ", ".join(names) or f"see `sacctmgr {' '.join(mine)}`"
            value = getattr(spec.size, key) or "null"
            return f"cluster.{key} is {value}. Set it to one of yours: {which}"
    return None


def _reached(error: str) -> str | None:
    """The limit in what sbatch said, by name, if fewer tasks would be accepted; else None."""
    if named := _NAMED.findall(error):
        return next((name for name in named if "Submit" in name), None)
    return next((name for text, name in _UNNAMED.items() if text in error), None)


def _withdrawn(spec: JobSpec, since: float) -> str:
    """Cancel what an sbatch without an answer may have submitted all the same; returns what to do
    next."""
    deadline = time.monotonic() + _AWAY_S
    while (jobs := _submitted_since(spec, since)) is None and time.monotonic() < deadline:
        time.sleep(1.0)
    if jobs is None:
        look = f"squeue --me --name={spec.name}"
        return f"The job may wait there all the same: before you try again, look with `{look}`"
    try:
        client.cancel(jobs)
    except (SchedulerRefused, SchedulerAway) as error:
        return (
            f"The job was submitted as {', '.join(jobs)} and could not be cancelled ({error}): "
            f"scancel it"
        )
    done = f"The job that had been submitted ({', '.join(jobs)}) is cancelled. " if jobs else ""
    return f"{done}Try again when it answers, or use --cluster local"


def most_tasks(account: str | None = None, qos: str | None = None) -> Limit:
    """The limit for one array of this account and QOS."""
    return min((array_limit(), *job_limits(account, qos)), key=lambda limit: limit.tasks)


@functools.cache
def _config() -> str:
    """What Slurm says of its configuration, asked once per process; empty without an answer."""
    return client.output_of(["scontrol", "show", "config"]) or ""


def array_limit() -> Limit:
    """How many tasks an array may have."""
    config = _config()
    size = re.search(r"^MaxArraySize\s*=\s*([0-9]{1,9})\b", config, re.MULTILINE)
    few = re.search(
        r"^SchedulerParameters\s*=.*\bmax_array_tasks=([0-9]{1,9})\b", config, re.MULTILINE
    )
    sizes = [
        ("MaxArraySize", int(size[1]) if size else _UNKNOWN),
        ("max_array_tasks", int(few[1]) if few else None),
    ]
    known = [
        Limit(max(1, most), f"an array has at most {max(1, most)} ({name})")
        for name, most in sizes
        if most is not None
    ]
    return min(known, key=lambda limit: limit.tasks)


@functools.cache
def job_limits(account: str | None, qos: str | None) -> tuple[Limit, ...]:
    """How many jobs of this account and QOS may be submitted now, asked once per process."""
    if not re.search(r"^AccountingStorageEnforce\s*=.*\b(limits|safe)\b", _config(), re.MULTILINE):
        return ()
    user = user_name(os.geteuid())
    shown = ["scontrol", "show", "assoc_mgr", f"users={user}", "flags=assoc,qos"]
    return tuple(limits_of_jobs(client.output_of(shown) or "", user, account, qos or "normal"))


def forget() -> None:
    """Ask Slurm again about its configuration and limits, where it may have changed."""
    _config.cache_clear()
    job_limits.cache_clear()


def limits_of_jobs(text: str, user: str, account: str | None, qos: str) -> list[Limit]:
    """From `scontrol show assoc_mgr`: how many jobs there may be, less those that are in the queue.

    A limit of the QOS is in force in place of the same one of the association. One for each user is
    shown only to those who have jobs already.
    """
    blocks = re.split(r"^(?=ClusterName=|QOS=)|\n\n", text, flags=re.MULTILINE)
    mine, above = _associations(blocks, user, account)
    quality = next((block for block in blocks if block.startswith(f"QOS={qos}(")), "")
    # Limits of users and accounts follow those of the QOS itself.
    head = quality.partition("Account Limits")[0]
    of_user = re.search(rf"^ +{re.escape(user)}\([0-9]+\)\n(.*)", quality, re.MULTILINE)
    each = _count("MaxSubmitJobsPU", of_user[1] if of_user else "", f"of QOS {qos}")
    together = _count("GrpSubmitJobs", head, f"of QOS {qos}")
    each = each or _count("MaxSubmitJobs", mine, "of your association")
    together = together or [
        limit for part in (mine, *above) for limit in _count("GrpSubmitJobs", part, "of a group")
    ]
    return [*each, *together]


def _associations(blocks: Sequence[str], user: str, account: str | None) -> tuple[str, list[str]]:
    """What is said about the association of a user, and about the accounts above it."""
    parts = [
        (match["account"], match["user"], block)
        for block in blocks
        if (match := _ASSOCIATION.match(block))
    ]
    own = [(name, part) for name, who, part in parts if who == user and account in (None, name)]
    if not own:
        return "", []
    name, mine = min(own, key=lambda entry: "DefAssoc=Yes" not in entry[1])
    lineage = re.search(r"\bLineage=(\S*)", mine)
    names = {"root", name, *(lineage[1].split("/") if lineage else ())}
    return mine, [part for name, who, part in parts if not who and name in names]


def _count(name: str, text: str, whose: str) -> list[Limit]:
    """A limit such as "5(2)": two of five are in use; "N(2)" and nothing are none."""
    found = re.search(rf"\b{name}=([0-9]{{1,9}})\(([0-9]{{1,9}})\)", text)
    if found is None:
        return []
    most, used = int(found[1]), int(found[2])
    return [
        Limit(
            max(1, most - used),
            f"at most {most} jobs may be in the queue ({name} {whose}), and {used} are",
        )
    ]
