"""``--cluster local``: processes of this machine that outlive the command, started by submitit's local executor.

Tasks of one process each share a controller, so that task k can work on the k-th GPU: submitit shows the processes of
every controller the same GPUs. Wider tasks get a controller each. Each process enforces its own time limit: a
controller's clock would begin before a wait for other jobs. Another command finds the processes by their controller,
and by what submitit calls them.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from cld_core.codec import whole
from cld_core.errors import CldError
from cld_core.rendezvous import Place
from cld_core.run.events import JobRef
from cld_core.stop import StopFlag

from . import entry, job_logs, this_machine
from .base import Cluster, InJob, Task, Work
from .records import After, JobSpec, SchedulerRefused, Seen, Survey

# Tells a process that each process of its controller is a task of its own.
_POOL = "CLDCTL_LOCAL_POOL"
# submitit wants a number of minutes.
_FOREVER_MIN = 10 * 365 * 24 * 60
# Seconds in which a controller starts its processes, also on a busy machine.
_STARTING_S = 30.0
# More than any machine runs.
_MOST_RANKS = 4096
# What `this_machine.details_of` says about one.
_Controller = Mapping[str, Any]


class LocalJob(InJob):
    def place(self) -> Place:
        # A file rather than a port: nothing else on this machine can be using it.
        meeting = Path(self.ref.logs) / f".meeting_{self.ref.job_id}"
        place = entry.place(f"file://{meeting}")
        return replace(place, rank=0, world_size=1) if _is_pooled() else place


class LocalCluster(Cluster):
    name: ClassVar[str] = "local"

    def max_tasks(self, spec: JobSpec) -> int:
        self.check(spec)
        # As many tasks as GPUs: a pool must not show more of them than the recipe asks for.
        return min(spec.size.ranks_per_node, spec.size.gpus_per_node or spec.size.ranks_per_node)

    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        this_machine.check_fits(spec)
        job_logs.check(spec.logs)

    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        self.check(spec, tasks)
        processes = tasks * spec.size.ranks_per_node
        return f"# local: {processes} process(es), each:\n{entry.command(entry.python_command(), spec.logs)}\n"

    def submit(self, spec: JobSpec, tasks: Sequence[Task], note: Callable[[Sequence[JobRef]], None]) -> None:
        self.check(spec, len(tasks))
        limit = spec.parallel or len(tasks)
        width, at_once = (limit, 1) if spec.size.ranks_per_node == 1 else (1, limit)
        others = self._controllers_of(spec.after)
        controllers: list[_Controller] = []
        jobs: list[JobRef] = []
        try:
            for number, first in enumerate(range(0, len(tasks), width)):
                before = (controllers[number - at_once],) if number >= at_once else ()
                works = tuple(task.work for task in tasks[first : first + width])
                start = _Start(works, (*others, *before), spec.size.time_min, spec.notice_s)
                controllers.append(_start_controller(spec, start))
                jobs += _refs(spec, start, controllers[-1])
        except (OSError, CldError) as error:
            for controller in controllers:
                this_machine.kill_family(this_machine.find(controller))
            if isinstance(error, CldError):
                raise SchedulerRefused(str(error)) from error
            text = f"the local job could not be started ({error.strerror or error})"
            raise SchedulerRefused(f"{spec.logs}: {text}. Fix that and resume.") from error
        note(jobs)

    def survey(self, jobs: Collection[JobRef], *, settled: Collection[JobRef] = (), max_age_s: float = 30.0) -> Survey:
        # Asked before the processes: a task that begins in between has not ended.
        begun = {job.job_id: this_machine.is_here(job.details) and _has_begun(job) for job in jobs}
        ranks = _Ranks()
        return Survey({(self.name, job.job_id): _seen(job, begun[job.job_id], ranks) for job in jobs})

    def cancel(self, jobs: Collection[JobRef]) -> None:
        for job in jobs:
            this_machine.require_ours(this_machine.find(job.details))
        for job in jobs:
            # A signal that comes while the processes are being started would be lost.
            deadline = time.monotonic() + _STARTING_S
            while this_machine.is_alive(job.details) and not _has_begun(job) and time.monotonic() < deadline:
                time.sleep(0.05)
            for process in _Ranks().of(job):
                this_machine.send(process, signal.SIGTERM)

    def kill(self, jobs: Collection[JobRef]) -> None:
        """In a pool, the siblings of a task live on, and so does their controller."""
        for job in jobs:
            controller = [] if job.details.get("pooled") else [this_machine.find(job.details)]
            for process in [*_Ranks().of(job), *controller]:
                this_machine.kill_family(process)

    def current_job(self, logs: Path | None = None) -> InJob:
        job_id, process = os.environ["SUBMITIT_LOCAL_JOB_ID"], int(os.environ["SUBMITIT_LOCAL_GLOBALID"])
        details, pooled = this_machine.details_of(int(job_id)), _is_pooled()
        ref = JobRef(
            cluster=self.name,
            job_id=f"{job_id}_{process}" if pooled else job_id,
            process=process if pooled else 0,
            logs=str(logs or os.environ["SUBMITIT_FOLDER"]),
            details={**details, "pooled": pooled},
        )
        return LocalJob(cluster=self, ref=ref, node=details["host"])

    def log_files(self, job: JobRef, rank: int) -> list[Path]:
        controller = job.job_id.partition("_")[0]
        return super().log_files(replace(job, job_id=controller), rank + job.process)

    def _controllers_of(self, after: After | None) -> tuple[_Controller, ...]:
        """The controllers of jobs to wait for.

        Raises:
            SchedulerRefused: this machine cannot watch one of the jobs, or cannot start a successor.
        """
        if after is None:
            return ()
        if after.how != "ended":
            raise SchedulerRefused("a local job cannot wait for another one to fail. Set cluster.successor=false.")
        for job in after.jobs:
            if job.cluster != self.name or not this_machine.is_here(job.details):
                text = f"a local job cannot wait for job {job.job_id} of {job.details.get('host', job.cluster)}"
                raise SchedulerRefused(f"{text}. Submit it there, or when that job has ended.")
        return tuple(dict(job.details) for job in after.jobs)


@dataclass(frozen=True)
class _Start:
    """What every process of a controller runs, pickled: one work for all of them, or one for each.

    Attributes:
        waits_for: details of the controllers that must have ended before the work begins.
        time_min: limit of the work, minutes; None for no limit.
        notice_s: seconds before the limit at which SIGUSR2 asks it to save and end.
    """

    works: tuple[Work, ...]
    waits_for: tuple[_Controller, ...]
    time_min: int | None
    notice_s: float

    def __call__(self) -> None:
        _wait_for(self.waits_for)
        if self.time_min is not None:
            _limit(60 * self.time_min, self.notice_s)
        job = LocalCluster().current_job()
        self.works[job.ref.process](job)


def _limit(seconds: float, notice_s: float) -> None:
    """Send this process SIGUSR2 before its time limit, at half of a short one, and kill it at the limit."""
    notice = seconds - min(notice_s, seconds / 2)
    for delay, number in ((notice, signal.SIGUSR2), (seconds, signal.SIGKILL)):
        timer = threading.Timer(delay, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()


def _wait_for(controllers: Sequence[_Controller]) -> None:
    """Wait until all have ended; a job that is asked to end meanwhile ends."""
    if not controllers:
        return
    stop = StopFlag().listen()
    print(f"waits for job {', '.join(str(controller['pid']) for controller in controllers)}", flush=True)
    while stop.code == 0 and any(map(this_machine.is_alive, controllers)):
        time.sleep(0.2)
    # Nothing has begun: until the work listens, a signal may end the process at once.
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    if stop.code != 0:
        print("asked to end before it began", flush=True)
        sys.exit(0)


def _start_controller(spec: JobSpec, start: _Start) -> _Controller:
    """Start the processes of ``start``; returns what finds their controller again.

    Raises:
        CldError: others may write into the folder of the logs.
        OSError: a file could not be written, or the controller could not be started.
    """
    from submitit.core.utils import JobPaths
    from submitit.local.local import start_controller

    pooled = len(start.works) > 1
    env = {**this_machine.path_from(spec.code), **spec.env, _POOL: "1" if pooled else ""}
    job_logs.prepare(spec.logs)
    pickled = job_logs.store(spec.logs, start, _FOREVER_MIN)
    try:
        with this_machine.detached_children(env):
            controller = start_controller(
                spec.logs,
                entry.command(entry.python_command(), spec.logs),
                tasks_per_node=len(start.works) if pooled else spec.size.ranks_per_node,
                cuda_devices=",".join(map(str, range(spec.size.gpus_per_node * len(start.works)))),
                timeout_min=_FOREVER_MIN,
            )
    except BaseException:
        pickled.unlink(missing_ok=True)
        raise
    pickled.rename(JobPaths(spec.logs, str(controller.pid)).submitted_pickle)
    return this_machine.details_of(int(controller.pid))


def _refs(spec: JobSpec, start: _Start, controller: _Controller) -> list[JobRef]:
    """One `JobRef` for each task that a controller runs."""
    details = {
        **controller,
        "waits_for": [dict(other) for other in start.waits_for],
        "pooled": len(start.works) > 1,
        "ranks": spec.size.ranks_per_node,
    }
    return [
        JobRef(cluster=LocalCluster.name, job_id=job_id, process=number, logs=str(spec.logs), details=details)
        for number, job_id in enumerate(this_machine.task_ids(controller["pid"], len(start.works)))
    ]


def _is_pooled() -> bool:
    return bool(os.environ.get(_POOL))


class _Ranks:
    """The processes of local jobs that are alive at this moment, also those whose controller was killed."""

    def __init__(self) -> None:
        import psutil

        # By log folder, controller and number; the last two are None if this user may not read the environment.
        self._processes: list[tuple[str, str | None, int | None, Any]] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if entry.MODULE in command:
                    self._processes.append((command[-1], *_names(process), process))

    def of(self, job: JobRef) -> list[Any]:
        """The processes to signal for a task: its own, or its controller if no environment can be read."""
        logs, pid = str(Path(job.logs).absolute()), str(job.details.get("pid"))
        here = [rank for rank in self._processes if rank[0] == logs]
        numbers = _numbers(job)
        mine = [process for _, job_id, number, process in here if job_id == pid and number in numbers]
        controller = this_machine.find(job.details)
        if mine or controller is None or all(job_id is not None for _, job_id, _, _ in here):
            return mine
        return [controller]


def _names(process: Any) -> tuple[str | None, int | None]:
    """The controller of a rank, and its number."""
    import psutil

    try:
        variables = process.environ()
    except psutil.AccessDenied:
        return None, None
    number = variables.get("SUBMITIT_LOCAL_GLOBALID", "")
    return variables.get("SUBMITIT_LOCAL_JOB_ID", ""), int(number) if number.isdecimal() else -1


def _seen(job: JobRef, has_begun: bool, ranks: _Ranks) -> Seen:
    host = str(job.details.get("host", ""))
    if not this_machine.is_here(job.details):
        return Seen("unknown", node=host, reason=f"started on {host}")
    # A task of a pool is over before its controller, which has others to watch.
    is_over = bool(job.details.get("pooled")) and has_begun
    if not ranks.of(job) and (is_over or not this_machine.is_alive(job.details)):
        return Seen("gone", node=host)
    others = job.details.get("waits_for", ())
    known = [other for other in others if isinstance(other, dict)] if isinstance(others, tuple | list) else []
    waits_for = [str(other["pid"]) for other in known if this_machine.is_alive(other)]
    if waits_for:
        return Seen("pending", node=host, reason=f"waits for job {', '.join(waits_for)}")
    return Seen("running", node=host)


def _has_begun(job: JobRef) -> bool:
    """Whether all processes of the task have begun: submitit writes a line to their logs first of all."""
    logs = (Path(job.logs) / f"{job.details.get('pid')}_{number}_log.out" for number in _numbers(job))
    return all(map(_has_content, logs))


def _numbers(job: JobRef) -> range:
    """The processes of a task among those of its controller."""
    return range(job.process, job.process + min(whole(job.details.get("ranks", 1), least=1) or 1, _MOST_RANKS))


def _has_content(log: Path) -> bool:
    try:
        return log.lstat().st_size > 0
    except (OSError, ValueError):
        return False
