"""A fourth cluster, in one file: jobs are pickled into their log folder, and a plain process runs each of them.

python -m tests.cldctl.clusters.spool JOB_FILE
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import ClassVar

import psutil

from cld_core.errors import RecipeError
from cld_core.run.events import JobRef
from cldctl.clusters.base import Cluster, Entry, InJob, Task
from cldctl.clusters.records import JobSpec, Seen, Survey

_JOB = "SPOOL_JOB"


class SpoolCluster(Cluster):
    name: ClassVar[str] = "spool"
    poll_s: ClassVar[float] = 0.1

    @classmethod
    def unavailable(cls) -> str | None:
        return None

    def max_tasks(self, spec: JobSpec) -> int:
        return 2

    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        if spec.size.world_size > 1:
            raise RecipeError("recipe: 'cluster.tasks_per_node' is more than 1. Set it to 1: a spool has one process.")

    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        return f"# spool: {tasks} process(es), {spec.name}\n"

    def submit(self, spec: JobSpec, tasks: Sequence[Task], note: Callable[[Sequence[JobRef]], None]) -> None:
        spec.logs.mkdir(parents=True, exist_ok=True)
        waits_for = [job.details["pid"] for job in spec.after.jobs] if spec.after else []
        jobs = []
        for number, task in enumerate(tasks):
            job_id = f"{spec.name}-{time.time_ns()}-{number}"
            file = spec.logs / f"{job_id}.pickle"
            file.write_bytes(pickle.dumps((waits_for, Entry(task.work, self))))
            command = [sys.executable, "-m", "tests.cldctl.clusters.spool", str(file)]
            environment = {**os.environ, **spec.env, _JOB: job_id}
            log = str(spec.logs / f"{job_id}_0_log")
            with open(f"{log}.out", "w") as out, open(f"{log}.err", "w") as err:
                process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True, env=environment)
            details = {"pid": process.pid, "waits_for": waits_for}
            jobs.append(JobRef(cluster=self.name, job_id=job_id, logs=str(spec.logs), details=details))
        note(jobs)

    def survey(self, jobs: Collection[JobRef], *, settled: Collection[JobRef] = (), max_age_s: float = 30.0) -> Survey:
        return Survey({(self.name, job.job_id): Seen(_phase(job)) for job in jobs})

    def cancel(self, jobs: Collection[JobRef]) -> None:
        for job in jobs:
            os.kill(job.details["pid"], signal.SIGTERM)

    def kill(self, jobs: Collection[JobRef]) -> None:
        for job in jobs:
            os.kill(job.details["pid"], signal.SIGKILL)

    def current_job(self, logs: Path | None = None) -> InJob:
        return InJob(cluster=self, ref=JobRef(cluster=self.name, job_id=os.environ[_JOB]))


def _phase(job: JobRef) -> str:
    if not _is_up(job.details["pid"]):
        return "gone"
    return "pending" if any(map(_is_up, job.details["waits_for"])) else "running"


def _is_up(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    waits_for, entry = pickle.loads(Path(sys.argv[1]).read_bytes())
    while any(map(_is_up, waits_for)):
        time.sleep(0.05)
    entry()
