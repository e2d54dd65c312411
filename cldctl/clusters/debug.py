"""``--cluster debug``: the tasks run one after another in this very process."""

import os
import signal
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

from cld_core.run.events import JobRef

from . import this_machine
from .base import Cluster, InJob, Task
from .records import JobSpec, Seen, Survey


class DebugJob(InJob):
    in_process: ClassVar[bool] = True


class DebugCluster(Cluster):
    name: ClassVar[str] = "debug"
    blocks: ClassVar[bool] = True

    def max_tasks(self, spec: JobSpec) -> int:
        self.check(spec)
        return 1

    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        this_machine.check_fits(spec)

    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        return "# debug: in the process of the command itself\n"

    def submit(self, spec: JobSpec, tasks: Sequence[Task], note: Callable[[Sequence[JobRef]], None]) -> None:
        """Run the tasks; an error of one of them is raised, and those after it do not run."""
        details = this_machine.details_of(os.getpid())
        ids = this_machine.task_ids(os.getpid(), len(tasks))
        jobs = [JobRef(cluster=self.name, job_id=job_id, logs=str(spec.logs), details=details) for job_id in ids]
        note(jobs)
        with this_machine.environment(spec.env):
            for job, task in zip(jobs, tasks, strict=True):
                task.work(DebugJob(cluster=self, ref=job, node=details["host"]))

    def survey(self, jobs: Collection[JobRef], *, settled: Collection[JobRef] = (), max_age_s: float = 30.0) -> Survey:
        return Survey({(self.name, job.job_id): _seen(job) for job in jobs})

    def cancel(self, jobs: Collection[JobRef]) -> None:
        for job in jobs:
            this_machine.require_ours(this_machine.find(job.details))
        for job in jobs:
            this_machine.send(this_machine.find(job.details), signal.SIGTERM)

    def kill(self, jobs: Collection[JobRef]) -> None:
        for job in jobs:
            this_machine.kill_family(this_machine.find(job.details))


def _seen(job: JobRef) -> Seen:
    host = str(job.details.get("host", ""))
    if not this_machine.is_here(job.details):
        return Seen("unknown", node=host, reason=f"started on {host}")
    # `submit` blocks: a process that can ask has left it.
    own = job.details.get("pid") == os.getpid()
    return Seen("running" if this_machine.is_alive(job.details) and not own else "gone", node=host)
