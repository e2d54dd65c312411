"""Submitting to Slurm: sbatch and the meaning of its errors, limits, and the expected start."""

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
from cld_core.run.history import array_of
from cld_core.sanitize import is_count
from cldctl.clusters import job_logs, local_processes
from cldctl.clusters.base import JobSpec, Limit, SchedulerAway, SchedulerRefused, TooManyTasks

from . import client, script
from .client import Facts

# Seconds that sbatch may take.
SBATCH_WITHIN_S = 120
# Seconds in which a controller that did not answer may still say which jobs it has accepted.
_AWAY_S = 60.0
# Seconds that an estimate of the start may take.
_ESTIMATED_WITHIN_S = 5.0
_START = re.compile(r"to start at (\S+)")
_PREFIX = re.compile(r"sbatch: (error|fatal): ")
# Errors after which the job may have been accepted or not.
_UNHEARD = re.compile("timed out|no answer within", re.IGNORECASE)

# Variables that only Slurm sets, inside a job; a shell that hides the job's id keeps the others.
_MARKS = (
    "SLURM_JOB_ID",
    "SLURM_JOBID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_STEP_ID",
    "SLURM_PROCID",
)
_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_")
# Variables that choose the Slurm, the user and the form of its output. SBATCH_ variables, which a
# user sets for all jobs, are kept, too.
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_TIME_FORMAT")

# The most tasks of an array if Slurm does not say: one below the default of MaxArraySize.
_UNKNOWN = 1000
_TASKS = re.compile(r"\bmax_array_tasks=([0-9]{1,9})\b")
_ASSOCIATION = re.compile(r"ClusterName=\S* Account=(?P<account>\S*) UserName=(?P<user>[^\s(]*)")
# The limit in sbatch's error if there would be too many jobs.
_NAMED = re.compile(r"\b((?:Assoc|QOS)[A-Za-z]*Limit)\b")
# Errors without the name of a limit, which may mean the same, and what to call the limit.
_UNNAMED = {
    "job submit limit": "a limit on jobs of your account or QOS",
    "Invalid job array specification": "MaxArraySize",
}


def environment() -> dict[str, str]:
    """The variables for sbatch, which passes them on, without those of a job around this process.

    With those, a new job would take itself for task 3 of an array or for a second start, and srun
    would refuse memory that is set in two ways.
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
        A function that reads the answer, seconds since 1970. If anything goes wrong, it returns
        None: an estimate must neither delay a submission nor break it.
    """
    text = script.text(spec, 1)
    variables = environment()
    deadline = time.monotonic() + _ESTIMATED_WITHIN_S
    outputs: list[str] = []

    def ask() -> None:
        answer = client.run(["sbatch", "--test-only"], text, variables, _ESTIMATED_WITHIN_S)
        outputs.append(answer.text + answer.errors)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()

    def start() -> float | None:
        thread.join(max(0.0, deadline - time.monotonic()))
        estimate = _START.search("".join(outputs))
        return client.start_of(estimate[1]) if estimate else None

    return start


def submit_tasks(
    spec: JobSpec, calls: Sequence[Callable[[], Any]], note: Callable[[Sequence[str]], None]
) -> None:
    """Submit one job, or an array if there are several ``calls``.

    Args:
        note: gets the job ids.

    Raises:
        SchedulerRefused, CldError, OSError: Slurm refused, or a file could not be written; no job
            is left.
        SchedulerAway: Slurm gave no answer.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = script.executor(spec)
    began = time.time()
    jobs = list[str]()
    has_script = False
    try:
        with job_logs.submission(spec.logs) as umask, _shielded(spec, umask):
            try:
                jobs = [str(job.job_id) for job in executor.submit_array(calls)]
            finally:
                # submitit writes the script just before it calls sbatch.
                has_script = any(spec.logs.glob(".submission_file_*"))
        note(jobs)
    except (FailedJobError, FailedSubmissionError) as error:
        raise _explained(spec, error, began) from error
    except BaseException:
        if jobs or has_script:
            _forget(spec, jobs, began)
        raise


@contextlib.contextmanager
def _shielded(spec: JobSpec, umask: int) -> Iterator[None]:
    """Run a block in which submitit calls sbatch.

    sbatch gets the variables of `environment`, no Ctrl-C, and `SBATCH_WITHIN_S` seconds. What it
    prints to stderr is dropped: the exception has it, too.

    Args:
        umask: the umask that the job gets.
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
    """Cancel jobs that are in no ledger, because their submission was not finished."""
    arrays = sorted(set(map(array_of, jobs or submitted_since(spec, since) or ())))
    try:
        client.cancel(arrays)
    except (SchedulerRefused, SchedulerAway) as error:
        names = " ".join(arrays)
        print(
            f"warning: job {names} is not noted, and could not be cancelled; end it with "
            f"`scancel {names}` ({error})",
            file=sys.stderr,
        )


def submitted_since(spec: JobSpec, when: float) -> list[str] | None:
    """Ids of jobs and arrays with the name of ``spec`` that this user submitted after ``when``.

    Its earlier submissions are left out: arrays of a sweep share a name. None without an answer, or
    if a line of it cannot be read, which may be about such a job.
    """
    command = ["squeue", "--me", "--noheader", f"--name={spec.name}", "--format=%A|%V"]
    text = client.output_of(command)
    if text is None:
        return None
    found = set()
    # At some sites, squeue prints more than jobs.
    for line in map(str.strip, text.splitlines()):
        if not line[:1].isdecimal():
            continue
        job_id, _, moment = line.partition("|")
        submitted = client.seconds_of(moment) if is_count(job_id) else None
        if submitted is None:
            return None
        if submitted >= int(when):
            found.add(job_id)
    return sorted(found - {array_of(job.job_id) for job in spec.earlier})


def _explained(spec: JobSpec, failure: Exception, since: float) -> SchedulerRefused | SchedulerAway:
    """The exception for submitit's, which has the errors that sbatch printed, with the fix."""
    code = getattr(failure.__cause__, "returncode", 1)
    error = str(failure).strip() or f"sbatch ended with {code}"
    if code == -signal.SIGKILL:
        error = f"no answer within {SBATCH_WITHIN_S} s"
    # At some sites, sbatch prints more than its errors.
    lines = [_PREFIX.sub("", line) for line in error.splitlines() if _PREFIX.match(line)]
    lines = lines or error.splitlines()
    if _UNHEARD.search(error):
        return SchedulerAway(f"slurmctld does not answer: {lines[-1]}. {_withdraw(spec, since)}.")
    if client.AWAY.search(error):
        return SchedulerAway(
            f"slurmctld does not answer, and the job {spec.name} was not submitted: {lines[-1]}. "
            "Try again when it does, or use --cluster local."
        )
    limit = _exceeded_limit(error)
    fix = (
        "Fix the cluster.* keys or the profile (`cldctl submit --dry-run` shows the script), or "
        "use --cluster local"
    )
    if limit is None:
        fix = _own_values(spec, error) or fix
    elif limit in error:
        fix = (
            "You may have no more jobs in the queue: wait until some have ended, then re-run the "
            "command"
        )
    message = f"sbatch refused the job {spec.name}: {'; '.join(lines)}. {fix}."
    return SchedulerRefused(message) if limit is None else TooManyTasks(message, limit)


def _own_values(spec: JobSpec, error: str) -> str | None:
    """The fix for an account or QOS that is not this user's; None for another error."""
    for key in ("account", "qos"):
        if f"Invalid {key}" in error:
            query = ["show", "assoc", f"user={user_name(os.geteuid())}", f"format={key}"]
            listed = client.output_of(["sacctmgr", "--noheader", "--parsable2", *query]) or ""
            names = ", ".join(sorted(set(re.findall(r"[^\s,]+", listed))))
            value = getattr(spec.size, key) or "null"
            which = names or f"see `sacctmgr {' '.join(query)}`"
            return f"cluster.{key} is {value}. Set it to one of yours: {which}"
    return None


def _exceeded_limit(error: str) -> str | None:
    """The limit in an error of sbatch if fewer tasks would be accepted; else None."""
    if names := _NAMED.findall(error):
        return next((name for name in names if "Submit" in name), None)
    return next((name for text, name in _UNNAMED.items() if text in error), None)


def _withdraw(spec: JobSpec, since: float) -> str:
    """Cancel the jobs of an sbatch without an answer; returns what happened and what to do next."""
    deadline = time.monotonic() + _AWAY_S
    while (jobs := submitted_since(spec, since)) is None and time.monotonic() < deadline:
        time.sleep(1.0)
    if jobs is None:
        return (
            "The job may be in the queue nevertheless: before you try again, look with "
            f"`squeue --me --name={spec.name}`"
        )
    try:
        client.cancel(jobs)
    except (SchedulerRefused, SchedulerAway) as error:
        return (
            f"The job was submitted as {', '.join(jobs)} and could not be cancelled ({error}): "
            f"scancel it"
        )
    done = f"The job that had been submitted ({', '.join(jobs)}) is cancelled. " if jobs else ""
    return f"{done}Try again when it answers, or use --cluster local"


@functools.cache
def _config() -> Facts:
    """Slurm's configuration, read once per process; empty without an answer."""
    return client.settings_in(client.output_of(["scontrol", "show", "config"]) or "")


def array_limit() -> Limit:
    """The largest number of tasks of an array."""
    config = _config()
    size = config["MaxArraySize"]
    tasks = _TASKS.search(config["SchedulerParameters"])
    most = int(size) if is_count(size) else _UNKNOWN
    name = "MaxArraySize"
    if tasks and int(tasks[1]) < most:
        most = int(tasks[1])
        name = "max_array_tasks"
    most = max(1, most)
    return Limit(most, f"an array has at most {most} ({name})")


@functools.cache
def job_limits(account: str | None, qos: str | None) -> tuple[Limit, ...]:
    """Limits on jobs of this account and QOS, less those in the queue; read once per process."""
    if not re.search(r"\b(limits|safe)\b", _config()["AccountingStorageEnforce"]):
        return ()
    user = user_name(os.geteuid())
    shown = ["scontrol", "show", "assoc_mgr", f"users={user}", "flags=assoc,qos"]
    return tuple(limits_of_jobs(client.output_of(shown) or "", user, account, qos or "normal"))


def forget() -> None:
    """Forget Slurm's configuration and limits, so that they are read again."""
    _config.cache_clear()
    job_limits.cache_clear()


def limits_of_jobs(text: str, user: str, account: str | None, qos: str) -> list[Limit]:
    """Limits on jobs, less those in the queue, from `scontrol show assoc_mgr`.

    A limit of the QOS replaces that of the association. Slurm shows a limit of the QOS for each
    user only to users who have jobs already.
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
    """The block of a user's association, and those of the accounts above it."""
    matches = [match for block in blocks if (match := _ASSOCIATION.match(block))]
    own = [
        match for match in matches if match["user"] == user and account in (None, match["account"])
    ]
    if not own:
        return "", []
    mine = min(own, key=lambda match: "DefAssoc=Yes" not in match.string)
    accounts = {"root", mine["account"]}
    if lineage := re.search(r"\bLineage=(\S*)", mine.string):
        accounts.update(lineage[1].split("/"))
    above = [
        match.string for match in matches if not match["user"] and match["account"] in accounts
    ]
    return mine.string, above


def _count(name: str, text: str, whose: str) -> list[Limit]:
    """A limit such as "5(2)", where two of five are in use; none for "N(2)" or without a number."""
    count = re.search(rf"\b{name}=([0-9]{{1,9}})\(([0-9]{{1,9}})\)", text)
    if count is None:
        return []
    most = int(count[1])
    used = int(count[2])
    why = f"at most {most} jobs may be in the queue ({name} {whose}), and {used} are"
    return [Limit(max(1, most - used), why)]
