"""Slurm as a `Cluster`: several tasks are one array."""

import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cld_core.config.cluster import ClusterSpec
from cld_core.errors import CldError, RecipeError
from cld_core.run.events import JobRef
from cldctl.clusters import job_logs, this_machine
from cldctl.clusters.base import Cluster, Entry, InJob, Task
from cldctl.clusters.records import (
    After,
    Check,
    DoctorOptions,
    EndedTask,
    JobSpec,
    MeasuredSaves,
    SchedulerAway,
    SchedulerRefused,
    Seen,
    Survey,
    TooManyTasks,
    Waiting,
)

from . import asking, client, doctor, expected, failed_tasks, inside, limits, outer, reasons, script, submission

# A job's line of `scontrol --oneliner show job`.
_LOG = re.compile(
    r"JobId=(?P<job>[0-9]+) (?:ArrayJobId=(?P<array>[0-9]+) )?.* StdOut=(?P<log>/.*?)(?: [A-Z]\w*=.*)?$", re.MULTILINE
)
# Seconds that a controller which did not answer is given to say what it has accepted.
_AWAY_S = 60.0


class SlurmCluster(Cluster):
    name: ClassVar[str] = "slurm"
    restarts: ClassVar[bool] = True
    queues: ClassVar[bool] = True
    poll_s: ClassVar[float] = 2.0
    # A job that is about to return to the queue looks gone for a moment.
    looks_to_believe_an_end: ClassVar[int] = 3
    question_s: ClassVar[float] = 2.0

    @classmethod
    def unavailable(cls) -> str | None:
        return None if shutil.which("sbatch") else "there is no sbatch on this machine. Use --cluster local."

    @classmethod
    def is_configured(cls) -> bool:
        return cls.unavailable() is None and client.is_configured()

    def max_tasks(self, spec: JobSpec) -> int:
        return limits.most_tasks(spec.size.account, spec.size.qos).tasks

    def why_no_more(self, spec: JobSpec) -> str:
        return limits.most_tasks(spec.size.account, spec.size.qos).why

    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        script.parameters(spec)
        job_logs.check(spec.logs)
        if tasks > 1 and tasks > (most := self.max_tasks(spec)):
            why = self.why_no_more(spec)
            raise RecipeError(f"{tasks} tasks do not fit into one array of Slurm: {why}. Submit at most {most}.")

    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        return script.text(spec, tasks)

    def submit(self, spec: JobSpec, tasks: Sequence[Task], note: Callable[[Sequence[JobRef]], None]) -> None:
        began = time.time()
        calls = [Entry(task.work, self) for task in tasks]
        try:
            with outer.hidden(), this_machine.environment(this_machine.without(spec.code)):
                python, parameters = script.python_command(spec.size), script.parameters(spec)
                job_ids = submission.submit(spec.logs, python, parameters, calls)
        except (SchedulerRefused, SchedulerAway):
            raise
        except CldError as error:
            raise SchedulerRefused(str(error)) from error
        except OSError as error:
            raise SchedulerRefused(f"{spec.logs}: the job could not be written ({error.strerror or error}).") from error
        except submission.NotSubmitted as error:
            raise _explained(spec.name, str(error), began) from error
        note([self._ref(job_id, spec.logs) for job_id in job_ids])

    def survey(self, jobs: Collection[JobRef], *, settled: Collection[JobRef] = (), max_age_s: float = 30.0) -> Survey:
        known = [job.job_id for job in settled if client.is_job_id(job.job_id)]
        poll = asking.poll([job.job_id for job in jobs if client.is_job_id(job.job_id)], known, max_age_s)
        seen = {(self.name, job.job_id): poll.jobs[job.job_id] for job in jobs if job.job_id in poll.jobs}
        # Slurm has no such jobs, whatever else a client would take them for.
        seen |= {(self.name, job.job_id): Seen("gone") for job in jobs if not client.is_job_id(job.job_id)}
        return Survey(seen, poll.problem, poll.as_of, poll.remark)

    def logs_of(self, jobs: Collection[JobRef]) -> Mapping[str, Path]:
        """One scontrol for all. Those of an array share a folder, and while they wait, a line."""
        ids = [job.job_id for job in jobs if client.is_job_id(job.job_id)]
        lines = "".join(f"show job {job_id}\n" for job_id in ids)
        text = client.run(["scontrol", "--oneliner"], lines).text if ids else ""
        folders = {
            job: Path(found["log"]).parent for found in _LOG.finditer(text) for job in found.group("job", "array")
        }
        seen = {job_id: folders.get(job_id, folders.get(job_id.partition("_")[0])) for job_id in ids}
        return {job_id: folder for job_id, folder in seen.items() if folder is not None}

    def cancel(self, jobs: Collection[JobRef]) -> None:
        client.cancel([job.job_id for job in jobs])

    def kill(self, jobs: Collection[JobRef]) -> None:
        """Nothing to do: Slurm kills what is left KillWait seconds after `cancel`."""

    def why_waiting(self, job: JobRef, seen: Seen) -> Waiting | None:
        """One scontrol, which knows more than the survey."""
        return reasons.explained(job.job_id, client.show_job(job.job_id) if client.is_job_id(job.job_id) else {}, seen)

    def explain_wait(self, job: JobRef, seen: Seen) -> Waiting | None:
        return reasons.explained(job.job_id, {}, seen) if seen.reason else None

    def ask_for_start(self, spec: JobSpec) -> Callable[[], float | None]:
        with outer.hidden():
            return expected.ask(script.text(replace(spec, after=None), 1))

    def redirect(self, waiting: Collection[JobRef], after: After) -> None:
        for job_id in sorted({job.job_id.partition("_")[0] for job in waiting}):
            client.set_dependency(job_id, script.dependency(after))

    def ended_tasks(self, text: str) -> tuple[EndedTask, ...]:
        return failed_tasks.parse(text)

    def current_job(self, logs: Path | None = None) -> InJob:
        folder = logs or Path(os.environ["SUBMITIT_FOLDER"])
        job_id = inside.job_id(os.environ)
        return inside.SlurmJob(
            cluster=self,
            ref=self._ref(job_id, folder),
            task=inside.task(os.environ),
            restart=inside.restarts(os.environ),
            node=os.environ.get("SLURMD_NODENAME", ""),
            log=inside.log_file(folder, job_id),
            began=inside.began(os.environ),
        )

    def usable_nodes(self, size: ClusterSpec, without: Collection[str] = ()) -> int | None:
        return client.usable_nodes(size.partition or os.environ.get("SLURM_JOB_PARTITION"), size.constraint, without)

    def excluded_nodes(self, size: ClusterSpec) -> tuple[str, ...] | None:
        return client.nodes_in(size.exclude or "")

    def checks(self, runs: Path, asked: DoctorOptions, saves: MeasuredSaves) -> Iterator[Check]:
        yield from doctor.checks(runs, asked, saves)

    def _ref(self, job_id: str, logs: Path) -> JobRef:
        return JobRef(cluster=self.name, job_id=job_id, logs=str(logs), restarts=self.restarts)


def _explained(name: str, error: str, since: float) -> SchedulerRefused | SchedulerAway:
    """The error of an sbatch that failed with ``error``, with what to do about it."""
    prefix = re.compile(r"sbatch: (error|fatal): ")
    lines = [prefix.sub("", line) for line in error.splitlines() if prefix.match(line)] or error.splitlines()
    text = lines[-1]
    if "timed out" in error.lower():
        return SchedulerAway(f"slurmctld does not answer: {text}. {_withdrawn(name, since)}.")
    if client.is_away(error):
        fix = "Try again when it does, or use --cluster local"
        return SchedulerAway(f"slurmctld does not answer, and the job {name} was not submitted: {text}. {fix}.")
    fix = "Fix the cluster.* keys or the profile (`cldctl submit --dry-run` shows the script), or use --cluster local"
    refused = f"sbatch refused the job {name}: {'; '.join(lines)}"
    if (limit := limits.reached(error)) is None:
        return SchedulerRefused(f"{refused}. {fix}.")
    wait = "You may have no more jobs in the queue: wait until some have ended, then re-run the command"
    return TooManyTasks(f"{refused}. {wait if limit in error else fix}.", limit)


def _withdrawn(name: str, since: float) -> str:
    """Cancel what an sbatch without an answer may have submitted all the same; returns what to do next."""
    deadline = time.monotonic() + _AWAY_S
    while (jobs := client.submitted_since(name, since)) is None and time.monotonic() < deadline:
        time.sleep(1.0)
    if jobs is None:
        return f"The job may wait there all the same: before you try again, look with `squeue --me --name={name}`"
    try:
        client.cancel(jobs)
    except (SchedulerRefused, SchedulerAway) as error:
        return f"The job was submitted as {', '.join(jobs)} and could not be cancelled ({error}): scancel it"
    done = f"The job that had been submitted ({', '.join(jobs)}) is cancelled. " if jobs else ""
    return f"{done}Try again when it answers, or use --cluster local"
