"""The protocol of a cluster: what commands need from it, and what a job needs from it inside.

A task is one world of processes, which call a `Payload`. A submission is one or many tasks: an
array, local processes and a loop in this process are three ways to run them. A cluster is
mechanism: it writes no ledger and has no policy, and nothing outside its own package compares its
name. Commands look at its capabilities (`Cluster.blocks`, `Cluster.restarts`,
`Cluster.most_tasks`).

A cluster has to do the following:

- Start one process for each rank. The process calls ``Task(work, self)()``, which needs
  `Cluster.current_job`.
- Let a job wait for `JobSpec.after`: the work itself does not wait.
- If `Cluster.restarts` is True: carry out the `Requeue` when all processes of a start have ended,
  run `JobSpec.aftermath` when a start ended badly without a wish, and keep a successor waiting
  (`cluster.successor`).
- Enforce ``size.time_min``: send SIGUSR2 ``notice_s`` seconds before the limit, and kill what is
  left at the limit.
- Let Python import from `JobSpec.code` before anything else, with PYTHONPATH.
- Send SIGTERM in `Cluster.cancel`. A signal that arrives before the work listens for it ends the
  process, or is lost while the process starts: wait until the task has begun, or accept that it
  ends without a message.
"""

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from cld_core.cpu import wait_briefly
from cld_core.errors import CldError
from cld_core.run.events import Cause, JobRef
from cld_core.run.history import Attempt
from cld_core.run.state import Answer as Answer
from cld_core.stop import StopCode, StopFlag

if TYPE_CHECKING:
    from cld_core.config.cluster import ClusterSpec
    from cld_core.rendezvous import Place


@dataclass(frozen=True)
class After:
    """The jobs that a job waits for, until they have ended or succeeded.

    The cluster waits, not the work. The jobs are of the same cluster. If a user names a job, only
    its id is known.
    """

    jobs: tuple[JobRef, ...]
    how: Literal["ended", "succeeded"] = "ended"


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One submission of one or many tasks.

    Attributes:
        size: nodes, ranks, GPUs and limits of a single task, and the cluster's settings from the
            recipe or profile. A task is ``size.world_size`` processes, ``size.ranks_per_node`` on
            each node; `Place` tells a process which one it is. If several one-GPU tasks share the
            GPUs of a machine, task k sees all of them and works on the k-th, its
            `Place.local_rank`.
        notice_s: seconds before its time limit at which a task gets the signal to save and end.
            A cluster refuses a limit that is not longer, or sends the signal at half of the limit,
            which counts from the start of the work.
        parallel: number of tasks that may run at once; None for no limit.
        earlier: jobs that the same command submitted before. If ``parallel`` is set, all of them
            end before a task begins: the limit is on all tasks together.
        exclude: nodes to avoid, in addition to ``size.exclude``.
        code: the folder that the job's Python imports from first; None for the installed code.
        aftermath: module and first arguments of the program that decides whether a job that ended
            badly begins again; the launcher adds the other arguments of `cldctl.jobs.aftermath`.
    """

    name: str
    logs: Path
    size: "ClusterSpec"
    notice_s: int = 90
    after: After | None = None
    parallel: int | None = None
    earlier: tuple[JobRef, ...] = ()
    exclude: tuple[str, ...] = ()
    code: Path | None = None
    aftermath: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """Answers about many jobs of a cluster, by job id.

    Attributes:
        problem: one line that says why there is no answer.
        as_of: when the launcher answered, seconds since 1970; None for an answer of this moment.
        remark: one line that says why the answers, although usable, are older than expected.
        advice: how to get an answer, if there is a problem.
    """

    jobs: Mapping[str, Answer]
    problem: str | None = None
    as_of: float | None = None
    remark: str | None = None
    advice: str = "try again when it answers"

    def of(self, job: JobRef) -> Answer:
        return self.jobs.get(job.job_id, Answer("unknown"))


@dataclass(frozen=True)
class Limit:
    """The largest number of tasks of a submission, at least one, and where the limit comes from.

    Attributes:
        why: the origin of the limit, for messages; empty if it is the size of this machine.
    """

    tasks: int
    why: str = ""


@dataclass(frozen=True)
class Nodes:
    """Names of nodes: those that could run a job if it avoided none, and those that it avoids."""

    usable: Collection[str]
    excluded: Collection[str]


@dataclass(frozen=True)
class Requeue:
    """What the launcher does with a job when its processes have ended.

    Nothing if the job was cancelled.

    Attributes:
        delay_s: seconds after which the job begins again at the earliest; None if it ends for good.
        avoid: nodes that the job avoids from now on, in addition to those that it avoids already.
        readmit: nodes that the job no longer avoids.
        after_limit: whether the job begins again only if the launcher says that the time limit
            ended it.
    """

    delay_s: float | None = 0.0
    avoid: tuple[str, ...] = ()
    readmit: tuple[str, ...] = ()
    after_limit: bool = False


@dataclass(frozen=True)
class EndedTask:
    """A process of a job that ended badly, by the launcher's message.

    Attributes:
        how: the words of the launcher.
        code: the exit code; None if there is none.
    """

    rank: int
    node: str
    how: str
    code: int | None = None


@dataclass(frozen=True)
class Waiting:
    """Why a job waits, in plain words.

    Attributes:
        advice: what its user can do about it.
        expected: when it may begin, seconds since 1970.
    """

    reason: str
    advice: str = ""
    expected: float | None = None


@dataclass(frozen=True)
class Held(Waiting):
    """Why a job waits that never begins by itself; ``advice`` says how to release it."""


# In the reason of a job that is `Held`, before the advice.
HELD = "; it never begins by itself: "


class SchedulerRefused(CldError):
    """The scheduler refused a request."""

    exit_code = 4


class TooManyTasks(SchedulerRefused):
    """The scheduler refused a submission, and may accept fewer tasks.

    Args:
        limit: the name of the limit that is exceeded.
    """

    def __init__(self, text: str, limit: str = "a limit that it does not name") -> None:
        super().__init__(text)
        self.limit = limit


class SchedulerAway(CldError):
    """The scheduler gave no answer. Never worded as a refusal."""

    exit_code = 4


@dataclass(frozen=True)
class Check:
    """One line of `cldctl doctor`: its subject, the verdict, what was found, and the advice."""

    name: str
    verdict: Literal["ok", "warn", "fail", "skip"]
    found: str
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Options of `cldctl doctor` for a cluster.

    Attributes:
        slowest_save_s: seconds of the slowest save of the runs so far; None before the first save.
        notice_s: seconds before a time limit at which a job gets the signal to stop.
        size: the resources of jobs, their setup and their container.
        partition: a name, or several separated by commas; None for all.
        job: look from a node, with a small job.
        wait_s: seconds to wait for the end of that job.
        notify: called with a message that says what the command waits for.
    """

    slowest_save_s: float | None
    notice_s: int
    size: "ClusterSpec"

    partition: str | None = None
    job: bool = True
    account: str | None = None
    wait_s: float = 120.0
    notify: Callable[[str], object] = lambda text: None


class Payload(Protocol):
    """What the processes of a task compute; `JobSpec.size` says how many they are.

    Picklable: it holds names and paths, and loads torch only when it is called.
    """

    def __call__(self, job: "InJob", stop: StopFlag) -> None: ...


class Cluster(ABC):
    """A way to run jobs.

    Attributes:
        blocks: `submit` returns when the work is done: no lock is held meanwhile, and there is
            nothing to follow.
        restarts: the cluster carries out wishes, runs an aftermath, and keeps a successor waiting.
        queues: jobs wait until there is room for them, so that any number of tasks may be
            submitted, also behind a job of which ``--after`` names the id alone: `submit` refuses
            an unknown one.
        looks_to_believe_an_end: number of surveys in a row that must say that a job is gone before
            this is believed.
        question_s: least number of seconds between two surveys of commands that wait for jobs, such
            as ``--follow``.
    """

    name: ClassVar[str]
    blocks: ClassVar[bool] = False
    restarts: ClassVar[bool] = False
    queues: ClassVar[bool] = False
    looks_to_believe_an_end: ClassVar[int] = 1
    question_s: ClassVar[float] = 0.4

    @classmethod
    def unavailable(cls) -> str | None:
        """Why this machine cannot use the cluster, without a full stop; None if it can."""
        return None

    @classmethod
    def is_configured(cls) -> bool:
        """Whether the clients on this machine have a cluster, so that it may be the default."""
        return cls.unavailable() is None

    @classmethod
    def has_keys_in(cls, size: "ClusterSpec") -> bool:
        """Whether ``size`` sets keys that only this cluster uses."""
        return False

    def ref(self, job_id: str, logs: Path, **details: object) -> JobRef:
        """A job of this cluster, as ledgers name it."""
        return JobRef(
            cluster=self.name,
            job_id=job_id,
            logs=str(logs),
            restarts=self.restarts,
            details=details,
        )

    @abstractmethod
    def most_tasks(self, spec: JobSpec) -> Limit:
        """The largest number of tasks for the shards of one submission.

        For a sweep of trainings, `check` and `array_size` count instead.

        Args:
            spec: with the ``size`` of the recipe, not yet reduced to a single task: on one machine,
                its ranks are the processes to use.

        Raises:
            RecipeError: the cluster has no jobs of this size.
        """

    def array_size(self) -> int | None:
        """The largest number of trainings in one submission; None for no limit."""
        return None

    @abstractmethod
    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        """Refuse jobs that cannot be submitted, before anything is written.

        Args:
            tasks: number of tasks in all submissions of the command.

        Raises:
            RecipeError: a key of the recipe does not fit this cluster; the message has the fix.
        """

    @abstractmethod
    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        """The text for ``--dry-run``: all that `submit` would submit, except ids made then."""

    @abstractmethod
    def submit(
        self, spec: JobSpec, works: Sequence[Payload], note: Callable[[Sequence[JobRef]], None]
    ) -> None:
        """Start a task for each work.

        Args:
            note: called with one `JobRef` per task as soon as all exist, before a blocking cluster
                begins. If it fails, the jobs are ended.

        Raises:
            SchedulerRefused: the scheduler refused the jobs.
            SchedulerAway: it gave no answer.
        """

    @abstractmethod
    def survey(
        self, jobs: Collection[JobRef], *, settled: Collection[JobRef] = (), max_age_s: float = 30.0
    ) -> Survey:
        """What the launcher says about jobs of this cluster, with one question for all.

        Args:
            settled: jobs whose end is known already, so that accounting is not needed.
            max_age_s: the greatest age of an answer that is good enough, seconds; 0 for an answer
                of this moment. Otherwise, a launcher that allows few questions may give an older
                answer, with its time in `Survey.as_of`.
        """

    def nodes_for(self, size: "ClusterSpec") -> Nodes | None:
        """The nodes for jobs of this size; None if they are not known."""
        return None

    @abstractmethod
    def cancel(self, jobs: Collection[JobRef]) -> None:
        """Signal jobs to save and end; returns at once.

        Raises:
            SchedulerRefused: the scheduler refused the request.
            SchedulerAway: it gave no answer.
        """

    @abstractmethod
    def kill(self, jobs: Collection[JobRef]) -> None:
        """End what is left of cancelled jobs after their grace period."""

    def why_waiting(self, job: JobRef, seen: Answer, *, asks: bool) -> Waiting | None:
        """Why a job waits, in plain words; None if the reason is not known.

        Args:
            seen: the answer of the last survey about the job.
            asks: whether the launcher may be asked; if not, only ``seen`` counts.
        """
        return Waiting(seen.reason) if seen.reason else None

    def ask_for_start(self, spec: JobSpec) -> Callable[[], float | None]:
        """Ask when such a job would begin if it were submitted now, without waiting for the answer.

        Returns:
            A function that waits for the answer, a few seconds at most, and returns it in seconds
            since 1970, or None if there is none. On a cluster without a queue, it is now.
        """
        return lambda: None if self.queues else time.time()

    def log_files(self, job: JobRef, rank: int) -> list[Path]:
        """Output and errors of one rank of a job, in this order; empty before it has begun."""
        folder = Path(job.logs)
        files = [folder / f"{job.job_id}_{rank}_log.{stream}" for stream in ("out", "err")]
        return [file for file in files if os.path.isfile(file)]

    def ended_tasks(self, text: str) -> tuple[EndedTask, ...]:
        """Processes that ended badly, by this launcher's messages in a log, in order."""
        return ()

    def current_job(self, logs: Path | None = None) -> "InJob":
        """The task that this process belongs to, from its environment. Loads no torch.

        Args:
            logs: folder of the job's output; needed by an aftermath, whose environment lacks it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not define current_job, which its jobs call"
        )

    def checks(self, runs: Path, options: DoctorOptions) -> Iterator[Check]:
        """Whether this cluster is fit for runs in the folder ``runs``, for `cldctl doctor`."""
        yield from ()


@dataclass(kw_only=True)
class InJob:
    """A task seen from inside. This base is a process without a scheduler: one rank, no notices.

    Attributes:
        task: the number of this task among those of its submission, if the cluster runs an
            aftermath; else 0.
        restart: number of earlier starts of this job by the launcher.
        log: the file that the launcher writes its notices to; None if it writes none.
        began: when the launcher gave this start its machines, seconds since 1970; None if not
            known.
        in_process: the job runs inside a command: errors propagate, Ctrl-C stops it, stdout belongs
            to the command.
    """

    cluster: Cluster
    ref: JobRef
    task: int = 0
    restart: int = 0
    node: str = ""
    log: Path | None = None
    began: float | None = None
    in_process: bool = False

    @property
    def start(self) -> tuple[str, int]:
        """The job and the number of this start, as events name them (`events.Failed.start`)."""
        return self.ref.job_id, self.restart

    def place(self) -> "Place":
        """This process among those of its task."""
        from cld_core.rendezvous import Place  # Only jobs need it.

        return Place()

    def log_since(self, offset: int) -> str:
        """The text of `log` after its first ``offset`` bytes; empty if there is no log."""
        return read_from(self.log, offset) if self.log is not None else ""

    def cause_of(self, code: StopCode, log_offset: int) -> Cause | None:
        """What a signal meant, as a cause of the ledger; None if unknown.

        Args:
            log_offset: where in `log` the notices about this attempt begin, bytes.
        """
        return None

    def why_ended(self, attempt: Attempt) -> Cause | None:
        """Why an earlier attempt ended that recorded no end, as a cause of the ledger; or None."""
        return None

    def nodes(self) -> Nodes | None:
        """The nodes for this task, and all that it avoids; None if they are not known."""
        return None

    def late_notice_s(self) -> float | None:
        """Seconds until the task must stop on its own; None if its notice is still to come.

        The notice of the time limit may have come before the task could receive it.
        """
        return None

    def wish(self, wish: Requeue) -> None:
        """Record what the launcher does when all processes of this start have ended.

        A later wish replaces an earlier one.

        Raises:
            OSError: the wish cannot be written.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not carry out wishes, which its jobs have"
        )

    def successor(self) -> JobRef | None:
        """The job that waits for this one to end badly (`cluster.successor`); None without one."""
        return None


@dataclass(frozen=True)
class Task:
    """What a launcher pickles and each process calls: the work and its cluster.

    It is unpickled by the code that the run was submitted with, which may be older: to try a
    change, use `resume --update-code` or ``--live-code``.
    """

    work: Payload
    cluster: Cluster

    def __call__(self) -> None:
        """Do the work and end the process.

        Raises:
            SystemExit: with the exit code of the work, the only result that a launcher uses.
        """
        # Before anything else: a launcher's own handlers would requeue the job, or ignore the
        # signal.
        stop = StopFlag().listen()
        wait_briefly()
        self.work(self.cluster.current_job(), stop)
        sys.exit(0)


def read_from(path: Path, offset: int) -> str:
    """The text of a file after its first ``offset`` bytes; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")
    except OSError:
        return ""
