"""A launcher that is made up, seen from outside and from inside of job 7."""

from dataclasses import dataclass
from typing import ClassVar

from cld_core.place import Place
from cld_core.run.events import JobRef
from cldctl.clusters.base import InJob
from cldctl.clusters.debug import DebugCluster
from cldctl.clusters.slurm import failed_tasks

REF = JobRef(cluster="made-up", job_id="7", restarts=True)


class Launcher(DebugCluster):
    name = "made-up"

    def __init__(self, error: Exception | None = None):
        self.submitted, self.cancelled, self.redirected, self.error = [], [], [], error

    def submit(self, spec, tasks, note):
        if self.error:
            raise self.error
        self.submitted.append((spec, tasks))
        note([JobRef(cluster=self.name, job_id="8", restarts=True)])

    def cancel(self, jobs):
        if self.error:
            raise self.error
        self.cancelled += [job.job_id for job in jobs]


@dataclass(kw_only=True)
class Inside(InJob):
    in_process: ClassVar[bool] = False
    cause: str | None = None
    refusal: Exception | None = None
    refusals: float = float("inf")
    asked: int = 0
    cancelled: bool = False
    size: int = 1
    said: str = ""
    nodes: int | None = 4
    excluded: tuple[str, ...] | None = ()

    def place(self):
        return Place(world_size=self.size)

    def log_since(self, offset):
        return self.said

    def why_ended(self, attempt):
        return self.cause

    def usable_nodes(self, without=()):
        return None if self.nodes is None else self.nodes - len(without)

    def excluded_nodes(self):
        return self.excluded

    def ended_tasks(self, text):
        return failed_tasks.parse(text)

    def requeue(self, *, delay_s=0.0, exclude=(), readmit=()):
        self.asked += 1
        if self.refusal and self.asked <= self.refusals:
            raise self.refusal
        self.delay_s, self.exclude, self.readmit = delay_s, exclude, readmit

    def is_cancelled(self):
        return self.cancelled


def inside(error: Exception | None = None, **more) -> Inside:
    return Inside(cluster=Launcher(error), ref=REF, **more)
