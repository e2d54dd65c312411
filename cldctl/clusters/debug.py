"""``--cluster debug``: the tasks run one after another in the process of the command."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TextIO

from cld_core.run.events import JobRef
from cld_core.stop import StopFlag

from .base import InJob, JobSpec, Limit, Payload
from .local_processes import ProcessCluster, details_of


class _Output:
    """An output whose reader may go away: Ctrl-C ends ``tee``, too, while the work still saves."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(BrokenPipeError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.stream.flush()


class DebugCluster(ProcessCluster):
    name: ClassVar[str] = "debug"
    blocks: ClassVar[bool] = True

    def most_tasks(self, spec: JobSpec) -> Limit:
        self.check(spec)
        return Limit(1)

    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        return "# debug: in the process of the command itself\n"

    def submit(
        self, spec: JobSpec, works: Sequence[Payload], note: Callable[[Sequence[JobRef]], None]
    ) -> None:
        """Run the works; an error of one is raised, and the works after it do not run."""
        pid = os.getpid()
        details = details_of(pid)
        ids = [str(pid)]
        if len(works) != 1:
            ids = [f"{pid}_{number}" for number in range(len(works))]
        jobs = [self.ref(job_id, spec.logs, **details) for job_id in ids]
        note(jobs)
        for job, work in zip(jobs, works, strict=True):
            task = InJob(cluster=self, ref=job, node=details["host"], in_process=True)
            with contextlib.redirect_stdout(_Output(sys.stdout)):
                work(task, StopFlag().listen(interrupt=True))
