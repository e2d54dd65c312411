"""Slurm as a `Cluster`, where several tasks are one array."""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cld_core.config.cluster import SCHEDULER_KEYS, ClusterSpec
from cld_core.errors import RecipeError
from cld_core.run.events import JobRef
from cldctl.clusters import base, job_logs
from cldctl.clusters.base import Answer, JobSpec, Nodes, Survey

from . import client, doctor, job_env, poll, script, submit

# srun's message about tasks that ended badly, apart from those that it ends itself:
# "srun: error: n2: task 1: Killed".
_ENDED = re.compile(
    r"^srun: error: (?P<node>[\w.-]+): tasks? (?P<tasks>[0-9,-]+): (?P<how>(?!Terminated).+?)\s*$",
    re.MULTILINE,
)
_CODE = re.compile(r"Exited with exit code ([0-9]{1,3})")
# No step has more tasks.
_MOST_TASKS = 1_000_000


class SlurmCluster(base.Cluster):
    name: ClassVar[str] = "slurm"
    restarts: ClassVar[bool] = True
    queues: ClassVar[bool] = True
    # A job that is about to return to the queue looks gone for a moment.
    looks_to_believe_an_end: ClassVar[int] = 3
    question_s: ClassVar[float] = 2.0

    @classmethod
    def unavailable(cls) -> str | None:
        return None if shutil.which("sbatch") else "there is no sbatch on this machine"

    @classmethod
    def is_configured(cls) -> bool:
        """Whether clients have a configuration, or a controller answers within 2 s."""
        if cls.unavailable() is not None:
            return False
        return bool(client.configuration()) or client.has_controller()

    @classmethod
    def has_keys_in(cls, size: ClusterSpec) -> bool:
        return any(getattr(size, name) for name in SCHEDULER_KEYS)

    def most_tasks(self, spec: JobSpec) -> base.Limit:
        limits = submit.job_limits(spec.size.account, spec.size.qos)
        return min((submit.array_limit(), *limits), key=lambda limit: limit.tasks)

    def array_size(self) -> int:
        return submit.array_limit().tasks

    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        script.parameters(spec)
        job_logs.check(spec.logs)
        if tasks <= 1:
            return
        for limit in submit.job_limits(spec.size.account, spec.size.qos):
            if tasks > limit.tasks:
                raise RecipeError(
                    f"{tasks} jobs are more than Slurm accepts: {limit.why}. Submit at most "
                    f"{limit.tasks}."
                )

    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        return script.text(spec, tasks)

    def submit(
        self, spec: JobSpec, works: Sequence[base.Payload], note: Callable[[Sequence[JobRef]], None]
    ) -> None:
        tasks = [base.Task(work, self) for work in works]
        with job_logs.refusals(spec.logs):
            submit.submit_tasks(
                spec, tasks, lambda job_ids: note([self.ref(it, spec.logs) for it in job_ids])
            )

    def survey(
        self, jobs: Collection[JobRef], *, settled: Collection[JobRef] = (), max_age_s: float = 30.0
    ) -> Survey:
        return poll.survey(jobs, settled, max_age_s)

    def cancel(self, jobs: Collection[JobRef]) -> None:
        """Call scancel, after writing a file for each job that keeps it from starting again."""
        files = [job_env.file_of(job, "cancelled") for job in jobs if job.logs]
        for file in files:
            # The run may have been moved, and the disk may be full.
            with contextlib.suppress(OSError):
                file.touch()
        waiting = [ref.job_id for job in jobs if (ref := job_env.successor_of(job)) is not None]
        try:
            client.cancel([*(job.job_id for job in jobs), *waiting])
        except (base.SchedulerRefused, base.SchedulerAway):
            for file in files:
                with contextlib.suppress(OSError):
                    file.unlink()
            raise

    def kill(self, jobs: Collection[JobRef]) -> None:
        """Nothing to do: Slurm kills what is left KillWait seconds after `cancel`."""

    def why_waiting(self, job: JobRef, seen: Answer, *, asks: bool) -> base.Waiting | None:
        """From one `scontrol show job`, which says more than the survey.

        A job that Slurm shows as running may have ended and wait for its requeue.
        """
        wished_at = job_env.wished_at(job) if seen.phase == "running" else None
        if wished_at is not None:
            since = time.strftime("%H:%M:%S", time.localtime(wished_at))
            return base.Waiting(f"Slurm has not answered the requeue since {since}")
        facts = client.show_job(job.job_id) if asks else {}
        return poll.explained(job.job_id, facts, seen)

    def ask_for_start(self, spec: JobSpec) -> Callable[[], float | None]:
        return submit.expected_start(replace(spec, after=None))

    def ended_tasks(self, text: str) -> tuple[base.EndedTask, ...]:
        """Processes that ended badly, in the order of srun's lines, roughly that of their ends."""
        ended: list[base.EndedTask] = []
        for message in _ENDED.finditer(text):
            exited = _CODE.match(message["how"])
            code = int(exited[1]) if exited else None
            for rank in _numbers(message["tasks"]):
                ended.append(base.EndedTask(rank, message["node"], message["how"], code))
        return tuple(ended)

    def current_job(self, logs: Path | None = None) -> base.InJob:
        return job_env.current(self, logs)

    def nodes_for(self, size: ClusterSpec) -> Nodes | None:
        partition = size.partition or os.environ.get("SLURM_JOB_PARTITION")
        return client.nodes(partition, size.constraint, size.exclude or "")

    def checks(self, runs: Path, options: base.DoctorOptions) -> Iterator[base.Check]:
        return doctor.checks(runs, options)


def _numbers(tasks: str) -> Iterator[int]:
    """The numbers in a text such as "0,2-4"."""
    for part in tasks.split(","):
        first, _, last = part.partition("-")
        last = last or first
        if first.isdecimal() and last.isdecimal():
            start = int(first)
            yield from range(start, min(int(last), start + _MOST_TASKS) + 1)
