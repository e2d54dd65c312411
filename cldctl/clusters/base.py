"""The protocol of a cluster: what commands ask of it, and what a job asks of it from inside.

A task is one world of processes, which call a `Work`. A submission is one or many tasks: an array,
local processes and a loop in this process are three ways to run them. A cluster is mechanism: it
writes no ledger, knows no policy, and nothing outside its own package compares its name. Commands
ask for capabilities (`Cluster.blocks`, `Cluster.restarts`, `Cluster.most_tasks`).

What the author of a cluster has to do:

- start one process for each rank, which calls ``Task(work, self)()`` and so needs
  `Cluster.current_job`;
- let a job wait for `JobSpec.after`: the work itself does not wait;
- where `Cluster.restarts` is True, carry out `Wish` when all processes of a start have ended, run
  `JobSpec.aftermath` when a start ended badly without one, and keep a successor waiting
  (`cluster.successor`);
- enforce ``size.time_min``: send SIGUSR2 ``notice_s`` seconds before the limit, and kill what is
  left at the limit;
- let Python import from `JobSpec.code` before anything else, with PYTHONPATH;
- send SIGTERM in `Cluster.cancel`. A signal that arrives before the work listens for it ends the
  process, or is lost while the process is being started: wait until the task has begun, or accept
  that it ends without a message.
"""

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from cld_core import cpu
from cld_core.errors import CldError
from cld_core.rendezvous import Place
from cld_core.run.events import Cause, JobRef
from cld_core.run.history import Attempt
from cld_core.run.state import Answer
from cld_core.stop import StopCode, StopFlag

if TYPE_CHECKING:
    from cld_core.config.cluster import ClusterSpec


Seen = Answer


@dataclass(frozen=True)
class After:
    """What a job waits for: that others ended, or succeeded. The cluster waits, not the work.

    The jobs are of the same cluster; of one that a user names, only the id is known.
    """

    jobs: tuple[JobRef, ...]
    how: Literal["ended", "succeeded"] = "ended"


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What one submission of one or many tasks needs.

    Attributes:
        size: nodes, ranks, GPUs and limits of a single task, and how the recipe or profile wants
            its jobs: a task is ``size.world_size`` processes, ``size.ranks_per_node`` on each node;
            its `Place` says which. Where several one-GPU tasks share the GPUs of a machine, task k
            is shown all of them and works on the k-th, its `Place.local_rank`.
        notice_s: seconds before its time limit at which a task is told to save and end. Refuse a
            limit that is not longer, or tell it at half of the limit, which counts from the start
            of the work.
        parallel: tasks that may run at once; None for no limit.
        earlier: jobs that the same command submitted before. If ``parallel`` is set, all of them
            end before a task begins: the limit is on all tasks together.
        exclude: nodes to avoid, beside ``size.exclude``.
        code: the folder that the job's Python imports from before it looks elsewhere; None: what is
            installed.
        aftermath: module and arguments of what is asked when a start has ended badly; the launcher
            adds what `cldctl.jobs.aftermath` takes besides.
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
        problem: one line on who could not be asked.
        as_of: when the launcher said so, seconds since 1970; None if it was asked just now.
        remark: one line on why the answers are older than people may expect; they are good
            nevertheless.
        advice: what somebody can do who needs an answer, if there is a problem.
    """

    jobs: Mapping[str, Seen]
    problem: str | None = None
    as_of: float | None = None
    remark: str | None = None
    advice: str = "try again when it answers"

    def of(self, job: JobRef) -> Seen:
        return self.jobs.get(job.job_id, Seen("unknown"))


@dataclass(frozen=True)
class Limit:
    """The most tasks of a submission, at least one, and where that comes from.

    Attributes:
        why: for people; empty if it is the size of this machine, which they know.
    """

    tasks: int
    why: str = ""


@dataclass(frozen=True)
class Nodes:
    """Nodes of a cluster, by name: those that could run a job if it avoided none, and those that it
    avoids."""

    usable: Collection[str]
    excluded: Collection[str]


@dataclass(frozen=True)
class Wish:
    """What a job wishes for when its processes have ended; its launcher carries it out, unless it
    was cancelled.

    Attributes:
        delay_s: seconds after which it begins again at the earliest; None if it need not begin
            again.
        avoid: nodes that it avoids from now on, beside those that it avoids already.
        readmit: nodes that it need not avoid any longer.
        after_limit: only if the launcher says that the time limit ended it.
    """

    delay_s: float | None = 0.0
    avoid: tuple[str, ...] = ()
    readmit: tuple[str, ...] = ()
    after_limit: bool = False


@dataclass(frozen=True)
class EndedTask:
    """A process of a job that ended badly, as the launcher tells: its node, and ``how``, with its
    exit code if any."""

    rank: int
    node: str
    how: str
    code: int | None = None


@dataclass(frozen=True)
class Waiting:
    """Why a job waits, in plain words, what somebody can do about it, and when it may begin,
    seconds since 1970."""

    reason: str
    advice: str = ""
    expected: float | None = None


@dataclass(frozen=True)
class Held(Waiting):
    """Why a job waits that never begins by itself; ``advice`` says who can help it."""


# In the reason of a job that is `Held`, before the advice.
HELD = "; it never begins by itself: "


class SchedulerRefused(CldError):
    """The scheduler said no."""

    exit_code = 4


class TooManyTasks(SchedulerRefused):
    """The scheduler may accept fewer tasks.

    Args:
        limit: the name of what it allows no more of.
    """

    def __init__(self, text: str, limit: str = "a limit that it does not name") -> None:
        super().__init__(text)
        self.limit = limit


class SchedulerAway(CldError):
    """The scheduler gave no answer. Never worded as a refusal."""

    exit_code = 4


@dataclass(frozen=True)
class Check:
    """One line of `cldctl doctor`: its subject, ``verdict``, what was found, and what to do."""

    name: str
    verdict: Literal["ok", "warn", "fail", "skip"]
    found: str
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """What `cldctl doctor` was asked: which partitions, and whether to look from a node by a small
    job.

    Attributes:
        partition: a name, or several with commas between them; None for all.
        slowest_save_s: how long saving took in the runs so far; None before the first save.
        notice_s: how early before a time limit a job is told to stop.
        size: what jobs ask for, their setup and their container.
        say: told what is waited for.
    """

    slowest_save_s: float | None
    notice_s: int
    size: "ClusterSpec"

    partition: str | None = None
    job: bool = True
    account: str | None = None
    wait_s: float = 120.0
    say: Callable[[str], object] = lambda text: None


class Work(Protocol):
    """What a task does: one start of `JobSpec.size` (nodes x ranks), whose processes form one
    world.

    Picklable: it holds names and paths, and loads torch only when it is called.
    """

    def __call__(self, job: "InJob", stop: StopFlag) -> None: ...


class Cluster(ABC):
    """A way to run jobs.

    Attributes:
        blocks: `submit` returns when the work is done: no lock is held during it, and there is
            nothing to follow.
        restarts: it carries out wishes, runs an aftermath, and keeps a successor waiting.
        queues: what is submitted waits until there is room for it, so that any number of tasks may
            be submitted, also behind a job that ``--after`` names by its id alone: `submit` refuses
            one that it does not know.
        looks_to_believe_an_end: how many surveys in a row must say that a job is gone before it is
            believed.
        question_s: seconds at least between two looks of ``--follow``, or of those who wait for
            jobs to end.
    """

    name: ClassVar[str]
    blocks: ClassVar[bool] = False
    restarts: ClassVar[bool] = False
    queues: ClassVar[bool] = False
    looks_to_believe_an_end: ClassVar[int] = 1
    question_s: ClassVar[float] = 0.4

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot be used on this machine, without a full stop; None if it can."""
        return None

    @classmethod
    def is_configured(cls) -> bool:
        """Whether there is a cluster behind its clients, so that it may be the default on this
        machine."""
        return cls.unavailable() is None

    @classmethod
    def has_keys_in(cls, size: "ClusterSpec") -> bool:
        """Whether ``size`` sets keys that mean something to this cluster alone."""
        return False

    @abstractmethod
    def most_tasks(self, spec: JobSpec) -> Limit:
        """The most tasks that the shards of one submission should be divided into.

        Of a sweep, `check` and `array_size` are asked.

        Ask with the ``size`` of the recipe, not yet reduced to a single task: on one machine, its
        ranks are the processes to use.

        Raises:
            RecipeError: the cluster has no jobs of this size.
        """

    def array_size(self) -> int | None:
        """The most tasks of one submission: more trainings are several; None for any number."""
        return None

    @abstractmethod
    def check(self, spec: JobSpec, tasks: int = 1) -> None:
        """Refuse jobs that cannot be submitted, before anything is written.

        Args:
            tasks: of all submissions of the command.

        Raises:
            RecipeError: names the key and the fix.
        """

    @abstractmethod
    def script(self, spec: JobSpec, tasks: int = 1) -> str:
        """What ``--dry-run`` shows: what would be submitted, except for ids that are made at
        submission."""

    @abstractmethod
    def submit(
        self, spec: JobSpec, works: Sequence[Work], note: Callable[[Sequence[JobRef]], None]
    ) -> None:
        """Start a task for each work.

        Args:
            note: gets one `JobRef` per task as soon as they exist, before a blocking cluster
                begins.

        Raises:
            SchedulerRefused: the scheduler said no.
            SchedulerAway: it gave no answer.
        """

    @abstractmethod
    def survey(
        self, jobs: Collection[JobRef], *, settled: Collection[JobRef] = (), max_age_s: float = 30.0
    ) -> Survey:
        """Ask about jobs of this cluster, all at once.

        Args:
            settled: those whose end is known already; accounting is not asked about them.
            max_age_s: an answer of this age, in seconds, is good enough; 0 asks now. A launcher
                that must not be asked often may give those who do not need it now an older one, and
                says so (`Survey.as_of`).
        """

    def nodes_for(self, size: "ClusterSpec") -> Nodes | None:
        """The nodes for jobs of this kind; None if nobody can tell."""
        return None

    @abstractmethod
    def cancel(self, jobs: Collection[JobRef]) -> None:
        """Ask jobs to save and end; returns at once.

        Raises:
            SchedulerRefused, SchedulerAway
        """

    @abstractmethod
    def kill(self, jobs: Collection[JobRef]) -> None:
        """End what is left of cancelled jobs after their grace period."""

    def why_waiting(self, job: JobRef, seen: Seen, *, asks: bool) -> Waiting | None:
        """Why a job that waits does, in plain words; None if nobody says.

        Args:
            asks: whether the launcher may be asked; else what the last survey said is all there is.
        """
        return Waiting(seen.reason) if seen.reason else None

    def ask_for_start(self, spec: JobSpec) -> Callable[[], float | None]:
        """Ask when such a job would begin if it were submitted now, without waiting for the answer.

        Returns:
            What reads the answer, seconds since 1970: it waits a few seconds at most, and None
                means that nobody knows.
            Where nothing queues, it is now.
        """
        return lambda: None if self.queues else time.time()

    def log_files(self, job: JobRef, rank: int) -> list[Path]:
        """Output and errors of one rank of a job, in this order; empty before it has begun."""
        folder = Path(job.logs)
        files = [folder / f"{job.job_id}_{rank}_log.{stream}" for stream in ("out", "err")]
        return [file for file in files if os.path.isfile(file)]

    def ended_tasks(self, text: str) -> tuple[EndedTask, ...]:
        """What this launcher says in a piece of a log about processes that ended badly, in
        order."""
        return ()

    def current_job(self, logs: Path | None = None) -> "InJob":
        """The task of this cluster that this process belongs to, from its environment. Loads no
        torch.

        Args:
            logs: folder of the job's output; an aftermath passes it, since its environment does not
                name it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not define current_job, which its jobs call"
        )

    def checks(self, runs: Path, asked: DoctorOptions) -> Iterator[Check]:
        """Whether this cluster is fit for runs in the folder ``runs``, for `cldctl doctor`."""
        yield from ()


@dataclass(kw_only=True)
class InJob:
    """A task seen from inside. This base is a process without a scheduler: one rank, and nobody
    says anything.

    Attributes:
        task: the number of this task among those of its submission, if the cluster runs an
            aftermath; else 0.
        restart: earlier starts of this job by the launcher.
        log: the file that the launcher writes its notices to; None if it writes none.
        began: when the launcher gave this start its machines, seconds since 1970; None if it does
            not say.
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

    def place(self) -> Place:
        """This process among those of its task."""
        return Place()

    def log_since(self, offset: int) -> str:
        """What was written to `log` after its first ``offset`` bytes; empty if there is no log."""
        return read_from(self.log, offset) if self.log is not None else ""

    def cause_of(self, code: StopCode, log_offset: int) -> Cause | None:
        """What a signal meant, a cause of the ledger; None where nobody knows.

        Args:
            log_offset: where in `log` the notices about this attempt begin, bytes.
        """
        return None

    def why_ended(self, attempt: Attempt) -> Cause | None:
        """Why an earlier attempt ended that could not say so itself, a cause of the ledger; None if
        unknown."""
        return None

    def nodes(self) -> Nodes | None:
        """The nodes for this task, with those that it avoids, whoever excluded them; None if nobody
        can tell."""
        return None

    def late_notice_s(self) -> float | None:
        """Seconds from now at which to stop on its own, if the notice of the time limit may have
        come already."""
        return None

    def wish(self, wish: Wish) -> None:
        """Say what is to follow when all processes of this start have ended. A later wish replaces
        an earlier one.

        Raises:
            OSError: it could not be written down.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not carry out wishes, which its jobs have"
        )

    def successor(self) -> JobRef | None:
        """The job that waits for this one to end badly, if the launcher keeps one
        (`cluster.successor`)."""
        return None


@dataclass(frozen=True)
class Task:
    """What a launcher pickles and each process calls: the work, and its cluster, so that a job
    looks up no name.

    It is unpickled by the code that the run was submitted with, which may be older: `resume
    --update-code` or ``--live-code`` tries a change.
    """

    work: Work
    cluster: Cluster

    def __call__(self) -> None:
        """Do the work and end the process.

        Raises:
            SystemExit: with the exit code of the work; what it returns or raises is of no use to a
                launcher.
        """
        # First of all: a launcher's own handlers would requeue the job, or ignore the signal.
        stop = StopFlag().listen()
        cpu.wait_briefly()
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
