"""``--cluster local``: processes of this machine that outlive the command, started by submitit's local executor.

Tasks of one process each share a controller, so that task k can work on the k-th GPU: submitit shows the processes of
every controller the same GPUs. Wider tasks get a controller each.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from cld_core.place import Place
from cld_core.run.events import JobRef
from cld_core.stop import StopFlag

from . import submitit_jobs, this_machine
from .base import After, Cluster, InJob, JobSpec, SchedulerRefused, Seen, Survey, Task, Work

# Tells a process that each process of its controller is a task of its own.
_POOL = "CLDCTL_LOCAL_POOL"
# What `this_machine.details_of` says about one.
_Controller = Mapping[str, Any]
# Seconds in which a controller starts its processes, also on a busy machine.
_STARTING_S = 10.0


class LocalJob(InJob):
    in_process: ClassVar[bool] = False

    def place(self) -> Place:
        # A file rather than a port: nothing else on this machine can be using it.
        place = submitit_jobs.place(f"file://{_meeting_file(self.ref)}")
        return replace(place, rank=0, world_size=1) if _POOL in os.environ else place


class LocalCluster(Cluster):
    name: ClassVar[str] = "local"

    @classmethod
    def unavailable(cls) -> str | None:
        return None

    def max_tasks(self, spec: JobSpec) -> int:
        return spec.size.ranks_per_node

    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        this_machine.check_fits(spec)

    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        self.check(spec, tasks)
        processes = tasks * spec.size.ranks_per_node
        return f"# local: {processes} process(es), each:\n{submitit_jobs.local_command(spec.logs)}\n"

    def submit(self, spec: JobSpec, tasks: Sequence[Task], note: Callable[[Sequence[JobRef]], None]) -> None:
        self.check(spec, len(tasks))
        limit = spec.parallel or len(tasks)
        width, at_once = (limit, 1) if spec.size.ranks_per_node == 1 else (1, limit)
        others = _controllers_of(spec.after)
        controllers: list[_Controller] = []
        jobs: list[JobRef] = []
        try:
            for number, first in enumerate(range(0, len(tasks), width)):
                before = (controllers[number - at_once],) if number >= at_once else ()
                works = tuple(task.work for task in tasks[first : first + width])
                start = _Start(works, (*others, *before))
                controllers.append(_start_controller(spec, start))
                jobs += _refs(spec, start, controllers[-1])
        except OSError as error:
            self.kill(jobs)
            text = f"the local job could not be started ({error.strerror or error})"
            raise SchedulerRefused(f"{spec.logs}: {text}. Fix that and resume.") from error
        note(jobs)

    def survey(self, jobs: Collection[JobRef], *, settled: Collection[JobRef] = (), max_age_s: float = 30.0) -> Survey:
        return Survey({(self.name, job.job_id): _seen(job) for job in jobs}, time.time())

    def cancel(self, jobs: Collection[JobRef]) -> None:
        for job in jobs:
            # A controller passes the signal on to its processes.
            if (process := _begun_process(job)) is not None:
                this_machine.send(process, signal.SIGTERM)

    def kill(self, jobs: Collection[JobRef]) -> None:
        for job in jobs:
            if (process := _process(job)) is not None:
                this_machine.kill_family(process)

    def current_job(self, logs: Path | None = None) -> InJob:
        job_id, process = os.environ["SUBMITIT_LOCAL_JOB_ID"], int(os.environ["SUBMITIT_LOCAL_GLOBALID"])
        details, pooled = this_machine.details_of(int(job_id)), _POOL in os.environ
        ref = JobRef(
            cluster=self.name,
            job_id=f"{job_id}_{process}" if pooled else job_id,
            process=process if pooled else 0,
            logs=str(logs or os.environ["SUBMITIT_FOLDER"]),
            details=details,
        )
        return LocalJob(cluster=self, ref=ref, node=details["host"])

    def log_files(self, job: JobRef, rank: int) -> list[Path]:
        controller = job.job_id.partition("_")[0]
        return super().log_files(replace(job, job_id=controller), rank + job.process)


@dataclass(frozen=True)
class _Start:
    """What every process of a controller runs, pickled: one work for all of them, or one for each.

    Attributes:
        waits_for: details of the controllers that must have ended before the work begins.
    """

    works: tuple[Work, ...]
    waits_for: tuple[_Controller, ...]

    def __call__(self) -> None:
        _wait_for(self.waits_for)
        job = LocalCluster().current_job()
        try:
            self.works[job.ref.process](job)
        finally:
            if os.environ["SUBMITIT_LOCAL_GLOBALID"] == "0":
                _meeting_file(job.ref).unlink(missing_ok=True)


def _wait_for(controllers: Sequence[_Controller]) -> None:
    """Wait until all have ended; a job that is asked to end meanwhile ends."""
    if not controllers:
        return
    stop = StopFlag().listen()
    while stop.code == 0 and any(map(this_machine.is_alive, controllers)):
        time.sleep(0.2)
    # Nothing has begun: until the work listens, a signal may end the process at once.
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    if stop.code != 0:
        print("asked to end before it began", flush=True)
        sys.exit(0)


def _controllers_of(after: After | None) -> tuple[_Controller, ...]:
    """The controllers of jobs to wait for.

    Raises:
        SchedulerRefused: this machine cannot watch one of the jobs, or cannot start a successor.
    """
    if after is None:
        return ()
    if after.how != "ended":
        raise SchedulerRefused("a local job cannot wait for another one to fail. Set cluster.successor=false.")
    for job in after.jobs:
        if not this_machine.is_here(job.details):
            text = f"a local job cannot wait for job {job.job_id} of {job.details.get('host', job.cluster)}"
            raise SchedulerRefused(f"{text}. Submit it there, or when that job has ended.")
    # This process itself is a job that ran in it (debug) and has returned.
    own = os.getpid()
    return tuple(dict(job.details) for job in after.jobs if job.details["pid"] != own)


def _start_controller(spec: JobSpec, start: _Start) -> _Controller:
    """Start the processes of ``start``; returns what finds their controller again."""
    processes = len(start.works) if len(start.works) > 1 else spec.size.ranks_per_node
    pool = {_POOL: "1"} if len(start.works) > 1 else {}
    with this_machine.detached_children({**spec.env, **pool}):
        pid = submitit_jobs.start_local(
            spec.logs,
            start,
            processes=processes,
            gpus=spec.size.gpus_per_node * len(start.works),
            # The controller's clock begins before the wait.
            minutes=None if start.waits_for else spec.size.time_min,
        )
    return this_machine.details_of(pid)


def _refs(spec: JobSpec, start: _Start, controller: _Controller) -> list[JobRef]:
    """One `JobRef` for each task that a controller runs."""
    waits_for = [dict(other) for other in start.waits_for]
    pooled = len(start.works) > 1
    details = {**controller, "waits_for": waits_for, "pooled": pooled}
    return [
        JobRef(cluster=LocalCluster.name, job_id=job_id, process=number, logs=str(spec.logs), details=details)
        for number, job_id in enumerate(this_machine.task_ids(controller["pid"], len(start.works)))
    ]


def _seen(job: JobRef) -> Seen:
    host = str(job.details.get("host", ""))
    if not this_machine.is_here(job.details):
        return Seen("unknown", node=host, reason=f"started on {host}")
    if this_machine.find(job.details) is None:
        return Seen("gone", node=host)
    waits_for = [str(other["pid"]) for other in job.details.get("waits_for", ()) if this_machine.is_alive(other)]
    if waits_for:
        return Seen("pending", node=host, reason=f"waits for job {', '.join(waits_for)}")
    began = _has_begun(job)
    return Seen("gone" if began and _process(job) is None else "running", node=host)


def _begun_process(job: JobRef) -> Any:
    """As `_process`; a task whose controller is only starting is waited for."""
    deadline = time.monotonic() + _STARTING_S
    while (process := _process(job)) is None and this_machine.is_alive(job.details) and not _has_begun(job):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return process


def _process(job: JobRef) -> Any:
    """The process to signal: a task's own in a pool, else the controller; None if it has ended or not begun."""
    import psutil

    controller = this_machine.find(job.details)
    if controller is None or not job.details.get("pooled"):
        return controller
    with contextlib.suppress(psutil.NoSuchProcess):
        return next((child for child in controller.children() if _number_of(child) in (job.process, None)), None)
    return None


def _has_begun(job: JobRef) -> bool:
    """Whether the task's process was started: submitit writes a line to its log first of all."""
    log = Path(job.logs) / f"{job.details['pid']}_{job.process}_log.out"
    return log.is_file() and log.stat().st_size > 0


def _number_of(process: Any) -> int | None:
    """The number of a process among those of its controller; -1 if it has none, None if this user may not see it."""
    import psutil

    try:
        return int(process.environ().get("SUBMITIT_LOCAL_GLOBALID", -1))
    except psutil.AccessDenied:
        return None
    except psutil.Error:
        return -1


def _meeting_file(ref: JobRef) -> Path:
    return Path(ref.logs) / f".meeting_{ref.job_id}"
