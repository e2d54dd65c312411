"""``--cluster local``: processes of this machine that outlive the command.

submitit's local executor starts a controller for each task, and the controller starts the
processes. Each process enforces its own time limit: a controller's clock would begin before a wait
for other jobs. Other commands find the processes by their controller and their command line.
"""

import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cld_core.records import whole
from cld_core.run.events import JobRef
from cld_core.sanitize import one_line
from cld_core.stop import StopFlag

from . import job_logs, local_processes
from .base import (
    After,
    Answer,
    InJob,
    JobSpec,
    Limit,
    Payload,
    SchedulerRefused,
    Task,
)

if TYPE_CHECKING:
    from cld_core.rendezvous import Place

# A variable of tasks that share the GPUs and cores: NUMBER/TASKS.
_SHARE = "CLDCTL_LOCAL_SHARE"
# A process of a job has this word in its command line, and the log folder as the last one.
_MODULE = "submitit.core._submit"
# submitit needs a limit, in minutes.
_FOREVER_MIN = 10 * 365 * 24 * 60
# Seconds in which a controller starts its processes, also on a busy machine.
_STARTING_S = 30.0
# What `local_processes.details_of` says about a controller.
_Controller = Mapping[str, Any]


class LocalJob(InJob):
    def place(self) -> "Place":
        # A file rather than a port: nothing else on this machine can be using it.
        meeting = Path(self.ref.logs) / f".meeting_{self.ref.job_id}"
        place = local_processes.place(f"file://{meeting}")
        number, tasks = map(int, os.environ[_SHARE].split("/"))
        if tasks == 1:
            return place
        return replace(place, local_rank=number, local_world_size=tasks)


class LocalCluster(local_processes.ProcessCluster):
    name: ClassVar[str] = "local"

    def most_tasks(self, spec: JobSpec) -> Limit:
        self.check(spec)
        # With GPUs, no more tasks than the recipe has GPUs: together they must not use more.
        ranks = spec.size.ranks_per_node
        return Limit(min(ranks, spec.size.gpus_per_node or ranks))

    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        super().check(spec, tasks)
        job_logs.check(spec.logs)

    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        self.check(spec, tasks)
        processes = tasks * spec.size.ranks_per_node
        return f"# local: {processes} process(es) of {shlex.quote(sys.executable)}\n"

    def submit(
        self, spec: JobSpec, works: Sequence[Payload], note: Callable[[Sequence[JobRef]], None]
    ) -> None:
        self.check(spec, len(works))
        at_once = min(spec.parallel or len(works), len(works))
        others = self._controllers_of(spec.after)
        if spec.parallel is not None:
            others += tuple(map(_controller_of, spec.earlier))
        jobs: list[JobRef] = []
        with job_logs.refusals(spec.logs):
            try:
                for number, work in enumerate(works):
                    # The last of them is not enough: if it is cancelled while it waits, it ends
                    # before those that it waited for.
                    before = map(_controller_of, jobs[number % at_once :: at_once])
                    jobs.append(self._start(spec, work, (*others, *before), number, at_once))
                note(jobs)
            except BaseException:
                self.kill(jobs)
                raise

    def living(self, jobs: Collection[JobRef]) -> dict[str, list[Any]]:
        # A controller passes a signal on to processes that this user cannot see.
        by_job = super().living(jobs)
        ranks = _ranks()
        return by_job | {job.job_id: ranks[_key(job)] for job in jobs if _key(job) in ranks}

    def wait_for_start(self, jobs: Collection[JobRef]) -> None:
        deadline = time.monotonic() + _STARTING_S + len(jobs)
        for job in jobs:
            while time.monotonic() < deadline:
                if _has_begun(job) or not local_processes.find(job.details):
                    break
                time.sleep(0.05)

    def answer(self, job: JobRef, is_alive: bool) -> Answer:
        answer = super().answer(job, is_alive)
        controllers = job.details.get("waits_for", ())
        if answer.phase != "running" or not isinstance(controllers, tuple | list):
            return answer
        waits_for = [
            str(controller["pid"])
            for controller in controllers
            if isinstance(controller, dict) and local_processes.find(controller) is not None
        ]
        if not waits_for:
            return answer
        reason = f"waits for job {one_line(', '.join(waits_for), 60)}"
        return replace(answer, phase="pending", reason=reason)

    def current_job(self, logs: Path | None = None) -> InJob:
        job_id = os.environ["SUBMITIT_LOCAL_JOB_ID"]
        details = local_processes.details_of(int(job_id))
        ref = self.ref(job_id, logs or Path(os.environ["SUBMITIT_FOLDER"]), **details)
        return LocalJob(cluster=self, ref=ref, node=details["host"])

    def _start(
        self,
        spec: JobSpec,
        work: Payload,
        waits_for: tuple[_Controller, ...],
        number: int,
        at_once: int,
    ) -> JobRef:
        """Start the task with this number of a submission.

        Args:
            waits_for: the controllers that must have ended before the work begins.
            at_once: number of tasks that run at the same time.

        Raises:
            CldError: others may write into the folder of the logs.
            OSError: a file could not be written, or the controller could not be started.
        """
        import submitit

        size = spec.size
        ranks = size.ranks_per_node
        shared_by = at_once if ranks == 1 else 1
        env = {**local_processes.path_from(spec.code), _SHARE: f"{number % shared_by}/{shared_by}"}
        gpus = _gpus(size.gpus_per_node, shared_by)
        with job_logs.submission(spec.logs) as umask, local_processes.detached_children(env):
            executor = submitit.LocalExecutor(folder=spec.logs)
            executor.update_parameters(tasks_per_node=ranks, timeout_min=_FOREVER_MIN)
            task = _LocalTask(work, self, waits_for, size.time_min, spec.notice_s, gpus, umask)
            pid = int(executor.submit(task).job_id)
        details = local_processes.details_of(pid)
        return self.ref(str(pid), spec.logs, **details, waits_for=list(waits_for), ranks=ranks)

    def _controllers_of(self, after: After | None) -> tuple[_Controller, ...]:
        """The controllers of jobs to wait for.

        Raises:
            SchedulerRefused: this machine cannot watch one of the jobs.
        """
        if after is None:
            return ()
        for job in after.jobs:
            if job.cluster != self.name or not local_processes.is_here(job.details):
                raise SchedulerRefused(
                    f"a local job cannot wait for job {job.job_id} of "
                    f"{job.details.get('host', job.cluster)}. Submit it there, or when that job "
                    "has ended."
                )
        return tuple(map(_controller_of, after.jobs))


@dataclass(frozen=True)
class _LocalTask(Task):
    """What every process of a controller calls.

    Attributes:
        waits_for: details of the controllers that must have ended before the work begins.
        time_min: limit of the work, minutes; None for no limit.
        notice_s: seconds before the limit at which SIGUSR2 asks the work to save and end.
        gpus: the value of CUDA_VISIBLE_DEVICES.
        umask: that of the command that submitted it.
    """

    waits_for: tuple[_Controller, ...]
    time_min: int | None
    notice_s: float
    gpus: str
    umask: int

    def __call__(self) -> None:
        os.umask(self.umask)
        # submitit sets numbers of GPUs, and they may have other names.
        os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus
        _wait_for(self.waits_for)
        if self.time_min is not None:
            _limit(60 * self.time_min, self.notice_s)
        super().__call__()


def _limit(seconds: float, notice_s: float) -> None:
    """Send this process SIGUSR2 before its time limit, and SIGKILL at the limit.

    If half of the limit is shorter than ``notice_s``, SIGUSR2 comes after half of it.
    """
    notice = seconds - min(notice_s, seconds / 2)
    for delay, number in ((notice, signal.SIGUSR2), (seconds, signal.SIGKILL)):
        timer = threading.Timer(delay, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()


def _wait_for(controllers: Sequence[_Controller]) -> None:
    """Wait until all controllers have ended; a signal to stop ends this process meanwhile."""
    stop = StopFlag().listen()
    if controllers:
        jobs = ", ".join(str(controller["pid"]) for controller in controllers)
        print(f"waits for job {jobs}", flush=True)
    while stop.code == 0 and any(map(local_processes.find, controllers)):
        time.sleep(0.2)
    # Nothing has begun: until the work listens, a signal may end the process at once. submitit
    # would ignore the signal.
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    if stop.code != 0:
        print("asked to end before it began", flush=True)
        sys.exit(0)


def _controller_of(job: JobRef) -> _Controller:
    names = ("host", "pid", "process_started")
    return {name: job.details[name] for name in names if name in job.details}


def _gpus(each: int, tasks: int) -> str:
    """The value of CUDA_VISIBLE_DEVICES for ``tasks`` that share GPUs, with ``each`` for one.

    If this process has the variable, with enough GPUs, they are the first of those.
    """
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if len(names) < each:
        names = [str(number) for number in range(each * tasks)]
    return ",".join(names[: each * tasks])


def _ranks() -> Mapping[tuple[str, str], list[Any]]:
    """The living processes of local jobs, by log folder and controller.

    Those whose controller was killed are among them. Processes whose environment cannot be read,
    such as those of other users, are left out.
    """
    import psutil

    living: dict[tuple[str, str], list[Any]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if _MODULE in command:
                controller = process.environ().get("SUBMITIT_LOCAL_JOB_ID", "")
                living.setdefault((command[-1], controller), []).append(process)
    return living


def _key(job: JobRef) -> tuple[str, str]:
    """The key of a job's processes in `_ranks`."""
    return str(Path(job.logs).absolute()), str(job.details.get("pid"))


def _has_begun(job: JobRef) -> bool:
    """Whether all processes of the task have begun: submitit first writes a line to their logs."""
    ranks = whole(job.details.get("ranks"), least=1) or 1
    with contextlib.suppress(OSError, ValueError):
        return all(
            (Path(job.logs) / f"{job.job_id}_{number}_log.out").lstat().st_size > 0
            for number in range(ranks)
        )
    return False
