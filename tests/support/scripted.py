"""Clusters that are made up: jobs are in the phases that a test says, and calls are noted."""

from typing import ClassVar

from cld_core.run import RunFolder
from cld_core.run.events import JobRef, Started, Submitted
from cldctl import clusters
from cldctl.clusters.debug import DebugCluster
from cldctl.clusters.records import SchedulerAway, SchedulerRefused, Seen, Survey


class Scripted(DebugCluster):
    """Cancelled jobs are gone, unless they are stubborn; `submit` accepts tasks and runs none."""

    name: ClassVar[str] = "scripted"
    blocks: ClassVar[bool] = False
    phases: ClassVar[dict[str, str]]
    calls: ClassVar[list[tuple[str, list[str]]]]
    stubborn: ClassVar[set[str]]
    refused: ClassVar[set[str]]  # jobs for which a cancellation is refused
    away: ClassVar[set[str]]  # names of clusters that do not answer
    broken: ClassVar[set[str]]  # names of clusters whose survey has a bug

    def survey(self, jobs, *, settled=(), max_age_s=30.0):
        if self.name in self.away:
            raise SchedulerAway("nobody answers")
        if self.name in self.broken:
            raise RuntimeError("a bug")
        return Survey({(self.name, job.job_id): Seen(self.phases[job.job_id], reason="started on far") for job in jobs})

    def submit(self, spec, tasks, note):
        jobs = [JobRef(cluster=self.name, job_id=f"{100 + number}") for number in range(len(tasks))]
        self.phases.update({job.job_id: "pending" for job in jobs})
        note(jobs)

    def cancel(self, jobs):
        self._end("cancel", [job.job_id for job in jobs if job.job_id not in self.stubborn], jobs)

    def kill(self, jobs):
        self._end("kill", [job.job_id for job in jobs], jobs)

    def _end(self, how, gone, jobs):
        self.calls.append((how, [job.job_id for job in jobs]))
        if any(job.job_id in self.refused for job in jobs):
            raise SchedulerRefused("no")
        self.phases.update(dict.fromkeys(gone, "gone"))


class Other(Scripted):
    name: ClassVar[str] = "other"


def register(monkeypatch) -> type[Scripted]:
    """Make the clusters ``scripted`` and ``other`` known."""
    Scripted.phases, Scripted.calls = {}, []
    Scripted.stubborn, Scripted.refused, Scripted.away, Scripted.broken = set(), set(), set(), set()
    for kind in (Scripted, Other):
        monkeypatch.setitem(clusters.CLUSTERS, kind.name, f"{__name__}:{kind.__name__}")
    return Scripted


def trained(run: RunFolder, job_id: str, phase: str = "running", cluster: str = "scripted") -> RunFolder:
    """Let a job that is in this phase have begun to train a run."""
    run.ledger.append(Submitted(job=JobRef(cluster=cluster, job_id=job_id, logs=str(run.logs))))
    run.ledger.append(Started(attempt=0, job_id=job_id, step=0))
    Scripted.phases[job_id] = phase
    return run
