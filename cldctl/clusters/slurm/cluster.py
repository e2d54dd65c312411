"""Slurm as a `Cluster`, where several tasks are one array; and a task seen from inside.

That is who it is, what signals and notices mean, and what it wishes for.
"""

import contextlib
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cld_core.config.cluster import ClusterSpec
from cld_core.errors import RecipeError
from cld_core.files import write_text
from cld_core.rendezvous import Place
from cld_core.run.events import Cause, JobRef
from cld_core.run.history import Attempt
from cld_core.sanitize import is_count
from cld_core.stop import StopCode
from cldctl.clusters import base, job_logs, this_machine
from cldctl.clusters.base import JobSpec, Nodes, Seen, Survey, read_from

from . import client, doctor, poll, submit

# Where slurmstepd writes its notices: the error log of rank 0, which is also that of the batch script.
_LOG = "0_log.err"
# Slurm may send the signal of the time limit up to a minute early.
_EARLY_S = 90.0
_ANSWER_WITHIN_S = 5.0
_NOT_PREEMPTED = ("None", "Unknown", "")
# How long slurmstepd, which writes at its own pace, may take to say why a job was requeued.
_NOTICE_WITHIN_S = 1.0
_NOTICE = re.compile(r"\*\*\* (JOB|STEP) \S+ ON \S+ CANCELLED AT \S+(?: DUE TO ([A-Z ]+?))?(?:,.*)? \*\*\*")
_CAUSE_OF_NOTICE: dict[str, Cause] = {
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
# What srun says about tasks that ended badly, apart from those that it ends itself: "srun: error: n2: task 1: Killed".
_ENDED = re.compile(
    r"^srun: error: (?P<node>[\w.-]+): tasks? (?P<tasks>[0-9,-]+): (?P<how>(?!Terminated).+?)\s*$", re.MULTILINE
)
_CODE = re.compile(r"Exited with exit code ([0-9]{1,3})")
# No step has more.
_MOST_TASKS = 1_000_000


class SlurmCluster(base.Cluster):
    name: ClassVar[str] = "slurm"
    restarts: ClassVar[bool] = True
    queues: ClassVar[bool] = True
    # A job that is about to return to the queue looks gone for a moment.
    looks_to_believe_an_end: ClassVar[int] = 3
    question_s: ClassVar[float] = 2.0

    @classmethod
    def unavailable(cls) -> str | None:
        return None if shutil.which("sbatch") else "there is no sbatch on this machine. Use --cluster local."

    @classmethod
    def is_configured(cls) -> bool:
        return cls.unavailable() is None and client.is_configured()

    def most_tasks(self, spec: JobSpec) -> base.Limit:
        return submit.most_tasks(spec.size.account, spec.size.qos)

    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        submit.parameters(spec)
        job_logs.check(spec.logs)
        if tasks > 1 and tasks > (limit := self.most_tasks(spec)).tasks:
            text = f"{tasks} tasks do not fit into one array of Slurm: {limit.why}"
            raise RecipeError(f"{text}. Submit at most {limit.tasks}.")

    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        return submit.script(spec, tasks)

    def submit(self, spec: JobSpec, works: Sequence[base.Work], note: Callable[[Sequence[JobRef]], None]) -> None:
        def note_ids(job_ids: Sequence[str]) -> None:
            logs = str(spec.logs)
            note([JobRef(cluster=self.name, job_id=job, logs=logs, restarts=self.restarts) for job in job_ids])

        with job_logs.refusals(spec.logs):
            submit.submit(spec, [base.Task(work, self) for work in works], note_ids)

    def survey(self, jobs: Collection[JobRef], *, settled: Collection[JobRef] = (), max_age_s: float = 30.0) -> Survey:
        return poll.survey(jobs, settled, max_age_s)

    def cancel(self, jobs: Collection[JobRef]) -> None:
        """Beside each job lies a mark that keeps it from starting again, whatever it wishes for by now."""
        marks = [file_of(job, "cancelled") for job in jobs if job.logs]
        for mark in marks:
            # The logs of a colleague's job are theirs.
            with contextlib.suppress(OSError):
                mark.touch()
        waiting = [ref.job_id for job in jobs if (ref := successor_of(job)) is not None]
        try:
            client.cancel([*(job.job_id for job in jobs), *waiting])
        except (base.SchedulerRefused, base.SchedulerAway):
            for mark in marks:
                with contextlib.suppress(OSError):
                    mark.unlink()
            raise

    def kill(self, jobs: Collection[JobRef]) -> None:
        """Nothing to do: Slurm kills what is left KillWait seconds after `cancel`."""

    def why_waiting(self, job: JobRef, seen: Seen, *, asks: bool) -> base.Waiting | None:
        """One scontrol, which knows more than the survey."""
        return poll.explained(job.job_id, client.show_job(job.job_id) if asks else {}, seen)

    def ask_for_start(self, spec: JobSpec) -> Callable[[], float | None]:
        return submit.expected_start(replace(spec, after=None))

    def ended_tasks(self, text: str) -> tuple[base.EndedTask, ...]:
        """By line and number: in about the order in which they ended."""
        ended: list[base.EndedTask] = []
        for found in _ENDED.finditer(text):
            code = _CODE.match(found["how"])
            number = int(code[1]) if code else None
            ended += [base.EndedTask(rank, found["node"], found["how"], number) for rank in _numbers(found["tasks"])]
        return tuple(ended)

    def current_job(self, logs: Path | None = None) -> base.InJob:
        logs = logs or Path(os.environ["SUBMITIT_FOLDER"])
        ref = JobRef(cluster=self.name, job_id=_job_id(os.environ), logs=str(logs), restarts=self.restarts)
        start = os.environ.get("SLURM_JOB_START_TIME", "")
        return SlurmJob(
            cluster=self,
            ref=ref,
            task=int(os.environ.get("SLURM_ARRAY_TASK_ID") or 0),
            # The variable is not set at the first start.
            restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            node=os.environ.get("SLURMD_NODENAME", ""),
            log=file_of(ref, _LOG),
            # Slurm does not say it before 23.02.
            began=float(start) if is_count(start) else None,
        )

    def nodes_for(self, size: ClusterSpec) -> Nodes | None:
        partition = size.partition or os.environ.get("SLURM_JOB_PARTITION")
        return client.nodes(partition, size.constraint, size.exclude or "")

    def checks(self, runs: Path, asked: base.DoctorOptions) -> Iterator[base.Check]:
        return doctor.checks(runs, asked)


def _numbers(tasks: str) -> Iterator[int]:
    """The numbers of "0,2-4"."""
    for part in tasks.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            yield from range(int(first), min(int(last or first), int(first) + _MOST_TASKS) + 1)


class SlurmJob(base.InJob):
    def place(self) -> Place:
        import submitit

        return this_machine.place(f"tcp://{submitit.JobEnvironment().hostnames[0]}:{self._port()}")

    def _port(self) -> int:
        """Where the ranks meet: the same for all of a start, another one at the next, in case this one is taken.

        submitit's own depends on the job id alone, and lies among those that the kernel gives to outgoing connections.
        """
        # By its logs too: the node may belong to several clusters, which count their jobs alike.
        return random.Random(f"{self.ref.job_id} {self.restart} {self.ref.logs}").randrange(20000, 32768)

    def cause_of(self, code: StopCode, log_offset: int) -> Cause | None:
        """What a signal means, by the notice in the log and by what the controller knows."""
        # A container may have no client, or one that finds no controller: the ranks are about to be killed.
        job = client.show_job(self.ref.job_id, _ANSWER_WITHIN_S)
        if job.get("PreemptTime", "None") not in _NOT_PREEMPTED:
            return "preempted"
        if code is StopCode.USR2:
            return "timeout" if _seconds_left(job) < _notice_s() + _EARLY_S else "preempted"
        noticed = notice_in(self.log_since(log_offset))
        if noticed not in (None, "cancelled"):
            return noticed
        if client.restarts_of(job) > self.restart:
            return notice_in(self._log_with_a_reason(log_offset)) or "requeued"
        if "COMPLETING" in job.get("JobState", "") or job.get("JobState") == "CANCELLED":
            has_met_limit = job.get("JobState", "").startswith("TIMEOUT") or job.get("Reason") == "TimeLimit"
            return "timeout" if has_met_limit else "cancelled"
        return None

    def why_ended(self, attempt: Attempt) -> Cause | None:
        """What the log or else accounting says about the end of an attempt of this job or an earlier one."""
        if attempt.log_offset is None or attempt.job_id is None:
            return None
        ref = replace(self.ref, job_id=attempt.job_id)
        noticed = notice_in(read_from(file_of(ref, _LOG), attempt.log_offset))
        if noticed not in (None, "cancelled"):
            return noticed
        shown = _shown(ref)
        is_of_it = client.restarts_of(shown) == attempt.restart
        if is_of_it and shown.get("PreemptTime", "None") not in _NOT_PREEMPTED:
            return "preempted"
        states = states_of_starts(attempt.job_id)
        if attempt.restart < len(states):
            # A job that exited on its own within the grace time is COMPLETED or FAILED, which is not a cause.
            cause = poll.CAUSE_OF_STATE.get(states[attempt.restart])
            if cause not in (None, "crashed"):
                return cause
        # srun --kill-on-bad-exit leaves the same notice as scancel.
        return None if attempt.cause == "crashed" else noticed

    def late_notice_s(self) -> float | None:
        """The signal of the limit goes to steps, up to a minute early: before the first step began, nobody heard it."""
        left, notice = _seconds_left({}), _notice_s()
        return max(left - notice, left / 2, 0.0) if left < notice + _EARLY_S else None

    def wish(self, wish: base.Wish) -> None:
        """For the batch script (`follow.sh`), which carries it out on the node when srun has ended."""
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


def _job_id(environment: Mapping[str, str]) -> str:
    """The id of this job, ARRAY_TASK for a task of an array: to requeue a bare array id requeues every task."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment["SLURM_JOB_ID"]


def file_of(job: JobRef, what: str) -> Path:
    """A file of a job beside its logs, which its batch script knows, too."""
    return Path(job.logs) / f"{job.job_id}_{what}"


def _shown(job: JobRef) -> dict[str, str]:
    """What `scontrol show job` said to the batch script when the last start of the job ended; empty if nothing."""
    return client.pairs_in(read_from(file_of(job, "shown"), 0))


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
    booted = os.environ.get("CLDCTL_BOOT_S", "")
    passed = time.clock_gettime(time.CLOCK_BOOTTIME) - float(booted) if is_count(booted) else time.time() - start
    return end - start - passed


def states_of_starts(job_id: str) -> list[str]:
    """From accounting, the state in which every start of a job ended, oldest first; empty without accounting."""
    return poll.parse_sacct(client.sacct("JobID,State", [job_id]) or "").get(job_id, [])


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
