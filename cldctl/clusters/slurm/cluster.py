"""Slurm as a `Cluster`: several tasks are one array."""

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cld_core.config.cluster import ClusterSpec
from cld_core.errors import RecipeError
from cld_core.run.events import JobRef
from cldctl.clusters import job_logs
from cldctl.clusters.base import Cluster, Entry, InJob, Task
from cldctl.clusters.records import (
    After,
    Check,
    DoctorOptions,
    EndedTask,
    JobSpec,
    MeasuredSaves,
    Seen,
    Survey,
    Waiting,
)

from . import client, doctor, job_env, poll, reasons, script, submit

# A job's line of `scontrol --oneliner show job`.
_LOG = re.compile(
    r"JobId=(?P<job>[0-9]+) (?:ArrayJobId=(?P<array>[0-9]+) )?.* StdOut=(?P<log>/.*?)(?: [A-Z]\w*=.*)?$", re.MULTILINE
)


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
        return submit.most_tasks(spec.size.account, spec.size.qos).tasks

    def why_no_more(self, spec: JobSpec) -> str:
        return submit.most_tasks(spec.size.account, spec.size.qos).why

    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        script.parameters(spec)
        job_logs.check(spec.logs)
        if tasks > 1 and tasks > (most := self.max_tasks(spec)):
            why = self.why_no_more(spec)
            raise RecipeError(f"{tasks} tasks do not fit into one array of Slurm: {why}. Submit at most {most}.")

    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        return script.text(spec, tasks)

    def submit(self, spec: JobSpec, tasks: Sequence[Task], note: Callable[[Sequence[JobRef]], None]) -> None:
        job_ids = submit.submit(spec, [Entry(task.work, self) for task in tasks])
        note([JobRef(cluster=self.name, job_id=job, logs=str(spec.logs), restarts=self.restarts) for job in job_ids])

    def survey(self, jobs: Collection[JobRef], *, settled: Collection[JobRef] = (), max_age_s: float = 30.0) -> Survey:
        return poll.survey(jobs, settled, max_age_s)

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

    def why_waiting(self, job: JobRef, seen: Seen, *, asks: bool) -> Waiting | None:
        """One scontrol, which knows more than the survey."""
        return reasons.explained(job.job_id, client.show_job(job.job_id) if asks else {}, seen)

    def ask_for_start(self, spec: JobSpec) -> Callable[[], float | None]:
        return submit.expected_start(replace(spec, after=None))

    def redirect(self, waiting: Collection[JobRef], after: After) -> None:
        for job_id in sorted({job.job_id.partition("_")[0] for job in waiting}):
            client.set_dependency(job_id, script.dependency(after))

    def ended_tasks(self, text: str) -> tuple[EndedTask, ...]:
        return job_env.ended_tasks(text)

    def current_job(self, logs: Path | None = None) -> InJob:
        return job_env.SlurmJob.of_this_process(self, logs or Path(os.environ["SUBMITIT_FOLDER"]))

    def usable_nodes(self, size: ClusterSpec, without: Collection[str] = ()) -> int | None:
        return client.usable_nodes(size.partition or os.environ.get("SLURM_JOB_PARTITION"), size.constraint, without)

    def excluded_nodes(self, size: ClusterSpec) -> tuple[str, ...] | None:
        return client.nodes_in(size.exclude or "")

    def checks(self, runs: Path, asked: DoctorOptions, saves: MeasuredSaves) -> Iterator[Check]:
        yield from doctor.checks(runs, asked, saves)
