"""``--cluster debug``: the tasks run one after another in the process of the command."""

import os
import signal
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

from cld_core.run.events import JobRef
from cld_core.stop import StopFlag

from . import local_processes
from .base import Cluster, InJob, JobSpec, Limit, Payload, Survey


class DebugCluster(Cluster):
    name: ClassVar[str] = "debug"
    blocks: ClassVar[bool] = True

    def most_tasks(self, spec: JobSpec) -> Limit:
        self.check(spec)
        return Limit(1)

    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        local_processes.check_fits(spec)

    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        return "# debug: in the process of the command itself\n"

    def submit(
        self, spec: JobSpec, works: Sequence[Payload], note: Callable[[Sequence[JobRef]], None]
    ) -> None:
        """Run the works; an error of one is raised, and the works after it do not run."""
        pid = os.getpid()
        details = local_processes.details_of(pid)
        ids = [str(pid)]
        if len(works) != 1:
            ids = [f"{pid}_{number}" for number in range(len(works))]
        jobs = [
            JobRef(cluster=self.name, job_id=job_id, logs=str(spec.logs), details=details)
            for job_id in ids
        ]
        note(jobs)
        for job, work in zip(jobs, works, strict=True):
            task = InJob(cluster=self, ref=job, node=details["host"], in_process=True)
            work(task, StopFlag().listen(interrupt=True))

    def survey(
        self, jobs: Collection[JobRef], *, settled: Collection[JobRef] = (), max_age_s: float = 30.0
    ) -> Survey:
        # `submit` blocks: while this process surveys, it runs no task.
        alive = [
            job
            for job in jobs
            if job.details.get("pid") != os.getpid() and local_processes.find(job.details)
        ]
        answers = {job.job_id: local_processes.seen(job, is_alive=job in alive) for job in jobs}
        return Survey(answers)

    def cancel(self, jobs: Collection[JobRef]) -> None:
        for job in jobs:
            local_processes.require_ours(local_processes.find(job.details))
        for job in jobs:
            local_processes.send(local_processes.find(job.details), signal.SIGTERM)

    def kill(self, jobs: Collection[JobRef]) -> None:
        for job in jobs:
            local_processes.send(local_processes.find(job.details), signal.SIGKILL, family=True)
