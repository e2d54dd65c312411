"""A made-up cluster, whose jobs have the phases that a test sets, and which notes its calls."""

import os
import time
from dataclasses import dataclass, field
from typing import ClassVar

from cld_core.errors import RecipeError
from cld_core.files import write_json
from cld_core.rendezvous import Place
from cld_core.run.events import JobRef
from cld_core.run.groups import Group
from cldctl import clusters
from cldctl.clusters.base import (
    Answer,
    InJob,
    Limit,
    Nodes,
    Requeue,
    SchedulerAway,
    SchedulerRefused,
    Survey,
    TooManyTasks,
)
from cldctl.clusters.debug import DebugCluster
from cldctl.clusters.slurm import client
from cldctl.clusters.slurm.cluster import SlurmCluster
from cldctl.runs import plan, resume
from cldctl.runs.start import start
from tests.support.made_up import ended, note, queued, run_with, started

REF = JobRef(cluster="scripted", job_id="7", restarts=True)
# The launcher of an aftermath, as its command line names it.
LAUNCHER = f"{__name__}:Scripted"
# How long ago a run ended that is old.
AGO_S = 2 * 24 * 3600.0


class Scripted(DebugCluster):
    """Cancelled jobs are gone, unless they are stubborn; `submit` accepts tasks and runs none.

    Attributes:
        stubborn, refused: jobs that outlive a cancellation, and those for which one is refused.
        away, broken: names of clusters that do not answer, or whose survey has a bug.
        error: what `submit`, `cancel` and `kill` raise.
        most: what it says that a submission may have; ``takes``: what it does take, if fewer.
        array: the most tasks of a submission of trainings, if there is such a limit.
        sizes: of every submission that was tried; ``submissions``: specification and tasks of those
            that succeeded.
        first: the id of the first job of a submission; None numbers submissions and tasks, as in
            1_0, 1_1, 2_0.
        nodes: how many there are, if it knows.
        before: called before it answers a submission, with its number.
        current: makes the job that a process of it is in.
    """

    name = "scripted"
    blocks = False
    phases: ClassVar = {}
    error = None
    most = 1
    array = None
    takes = 1000
    first = 100
    nodes = None
    before = staticmethod(lambda number: None)
    current = staticmethod(lambda: inside())

    def most_tasks(self, spec):
        return Limit(self.most, f"at most {self.most} jobs may be in the queue")

    def array_size(self):
        return self.array

    def check(self, spec, tasks=1):
        super().check(spec, tasks)
        if self.queues and tasks > self.most:
            raise RecipeError(f"{tasks} tasks do not fit. Submit at most {self.most}.")

    def survey(self, jobs, *, settled=(), max_age_s=30.0):
        if self.name in self.away:
            raise SchedulerAway("nobody answers")
        if self.name in self.broken:
            raise RuntimeError("a bug")
        return Survey(
            {job.job_id: Answer(self.phases[job.job_id], reason="started on far") for job in jobs}
        )

    def submit(self, spec, tasks, note):
        self.sizes.append(len(tasks))
        self.before(len(self.sizes))
        if self.error is not None:
            raise self.error
        if len(tasks) > self.takes:
            raise TooManyTasks(
                "sbatch refused the job: AssocMaxSubmitJobLimit. Fix it.", "AssocMaxSubmitJobLimit"
            )
        self.submissions.append((spec, tasks))
        number = len(self.submissions)
        ids = [
            f"{number}_{k}" if self.first is None else f"{self.first + k}"
            for k in range(len(tasks))
        ]
        jobs = [
            JobRef(cluster=self.name, job_id=it, logs=str(spec.logs), restarts=self.restarts)
            for it in ids
        ]
        self.phases.update(dict.fromkeys(ids, "pending"))
        note(jobs)

    def cancel(self, jobs):
        self._end("cancel", [job.job_id for job in jobs if job.job_id not in self.stubborn], jobs)

    def kill(self, jobs):
        self._end("kill", [job.job_id for job in jobs], jobs)

    def _end(self, how, gone, jobs):
        if self.error is not None:
            raise self.error
        self.calls.append((how, [job.job_id for job in jobs]))
        if any(job.job_id in self.refused for job in jobs):
            raise SchedulerRefused("no")
        self.phases.update(dict.fromkeys(gone, "gone"))

    def nodes_for(self, size):
        return _nodes(self.nodes, client.nodes_in(size.exclude or ""))

    def ended_tasks(self, text):
        return SlurmCluster().ended_tasks(text)

    def current_job(self, logs=None):
        return self.current()


class Other(Scripted):
    name = "other"


def _fresh():
    sets = {name: set() for name in ("stubborn", "refused", "away", "broken")}
    return {"phases": {}, "calls": [], "sizes": [], "submissions": [], **sets}


def register(monkeypatch, **how):
    """Make the clusters ``scripted`` and ``other`` known."""
    for name, value in (_fresh() | how).items():
        monkeypatch.setattr(Scripted, name, value, raising=False)
    for kind in (Scripted, Other):
        monkeypatch.setitem(clusters.CLUSTERS, kind.name, f"{__name__}:{kind.__name__}")
    return Scripted


def alone(**how):
    """One that is not in the registry, with jobs of its own."""
    cluster = Scripted()
    vars(cluster).update(_fresh() | {"most": 1000, "first": None} | how)
    return cluster


def submitted(options, cluster):
    """Start what `submit` is to start."""
    works = plan.trainings(options, cluster, lambda *about: None)
    after = options.waits_for(cluster)
    return start(works, cluster, options.group, after=after, parallel=options.parallel)


def resumed(place, cluster, continuation=None, about=lambda *about: None):
    """Continue a run, or the runs of a group."""
    continuation = continuation or resume.Continuation()
    if isinstance(place, Group):
        works = resume.of_group(place, place.runs(), continuation, cluster, about)
    else:
        works = resume.of_run(place, continuation, cluster, about)
    return start(works, cluster, place)


def outcomes(started):
    """What became of each work, by its name."""
    return {planned.work.name: planned.outcome for planned in started.works}


def trained(run, job_id, phase="running", cluster="scripted", cause=None):
    """Let a job in this phase have begun to train a run; with a cause, its attempt has ended."""
    job = queued(job_id, cluster=cluster, logs=run.logs, restarts=False)
    note(run, job, started(job_id=job_id))
    Scripted.phases[job_id] = phase
    if cause is not None:
        note(run, ended(cause, max(run.checkpoint_steps(), default=0)))
    return run


def stopped(path, job_id="1", cause="preempted", cluster="scripted"):
    """A run of 50 steps whose only attempt has ended, with checkpoints of steps 10 and 20."""
    run = run_with(path, 10, 20, overrides=("train.steps=50",))
    return trained(run, job_id, "gone", cluster, cause)


def over(path, job_id, *steps, cause="finished", created=None):
    """A run whose training has ended; by default now: `settle` makes it old."""
    run = trained(run_with(path, *(steps or (10,))), job_id, phase="gone", cause=cause)
    write_json(
        run.identity_file,
        run.identity() | {"created": time.time() - AGO_S if created is None else created},
    )
    return run


def settle(root):
    """Let two days pass: nothing under ``root`` was written since, and other processes write
    next."""
    past = time.time() - AGO_S
    for folder, _, files in os.walk(root):
        for path in (folder, *(f"{folder}/{name}" for name in files)):
            os.utime(path, (past, past), follow_symlinks=False)


def _nodes(count, excluded):
    """So many nodes, those that are excluded among them."""
    if count is None or excluded is None:
        return None
    return Nodes([*excluded, *map(str, range(count - len(excluded)))], excluded)


@dataclass(kw_only=True)
class Inside(InJob):
    """Job 7 from inside.

    Attributes:
        cause: why it ended, as its launcher says; ``said``: what it printed into the log.
        count: of the nodes, if it is known, and ``excluded``: those that it avoids.
        wishes: what it wished for, and ``error``: what writing that down raises.
        next: the job that waits for it to end badly.
    """

    cause: str | None = None
    error: Exception | None = None
    wishes: list[Requeue] = field(default_factory=list)
    next: JobRef | None = None
    size: int = 1
    said: str = ""
    count: int | None = 4
    excluded: tuple[str, ...] | None = ()

    def place(self):
        return Place(world_size=self.size)

    def log_since(self, offset):
        return self.said

    def why_ended(self, attempt):
        return self.cause

    def nodes(self):
        return _nodes(self.count, self.excluded)

    def wish(self, wish):
        if self.error is not None:
            raise self.error
        self.wishes.append(wish)

    def successor(self):
        return self.next


def inside(**more):
    """Job 7."""
    return Inside(cluster=alone(), ref=REF, **more)
