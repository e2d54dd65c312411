"""Tasks of local jobs, found by another process: by their controller, and by what submitit calls their ranks."""

import contextlib
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cld_core.codec import whole
from cld_core.run.events import JobRef

from . import this_machine
from .records import Seen
from .submitit_jobs import ENTRY

# Seconds in which a controller starts its processes, also on a busy machine.
_STARTING_S = 30.0
# More than any machine runs.
_MOST_RANKS = 4096


class Ranks:
    """The processes of local jobs that are alive at this moment, also those whose controller was killed."""

    def __init__(self) -> None:
        import psutil

        # By log folder, controller and number; the last two are None if this user may not read the environment.
        self._processes: list[tuple[str, str | None, int | None, Any]] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if ENTRY in command:
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


def survey(jobs: Collection[JobRef]) -> dict[tuple[str, str], Seen]:
    # Asked before the processes: a task that begins in between has not ended.
    begun = {job.job_id: this_machine.is_here(job.details) and _has_begun(job) for job in jobs}
    ranks = Ranks()
    return {(job.cluster, job.job_id): _seen(job, begun[job.job_id], ranks) for job in jobs}


def _seen(job: JobRef, has_begun: bool, ranks: Ranks) -> Seen:
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


def _names(process: Any) -> tuple[str | None, int | None]:
    """The controller of a rank, and its number."""
    import psutil

    try:
        variables = process.environ()
    except psutil.AccessDenied:
        return None, None
    number = variables.get("SUBMITIT_LOCAL_GLOBALID", "")
    return variables.get("SUBMITIT_LOCAL_JOB_ID", ""), int(number) if number.isdecimal() else -1


def wait_for_begin(job: JobRef) -> None:
    """Wait until all processes of a task have begun, or the task has ended; does not wait for ever."""
    deadline = time.monotonic() + _STARTING_S
    while this_machine.is_alive(job.details) and not _has_begun(job) and time.monotonic() < deadline:
        time.sleep(0.05)


def kill(job: JobRef) -> None:
    """End what is left of a task; in a pool its siblings, and their controller, live on."""
    doomed = Ranks().of(job)
    if not job.details.get("pooled"):
        doomed.append(this_machine.find(job.details))
    for process in doomed:
        this_machine.kill_family(process)


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
