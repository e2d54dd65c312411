"""What clusters are asked, and what they answer: the records that pass between them and who calls them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cld_core.errors import CldError
from cld_core.run.events import Cause, JobRef

if TYPE_CHECKING:
    from cld_core.config.cluster import ClusterSpec


Phase = Literal["pending", "running", "suspended", "ending", "gone", "unknown"]


@dataclass(frozen=True)
class After:
    """What a job waits for: that others ended, or that they failed (a successor; only where `Cluster.restarts`).

    The cluster waits, not the work. The jobs are of the same cluster.
    """

    jobs: tuple[JobRef, ...]
    how: Literal["ended", "failed"] = "ended"


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What one submission of one or many tasks needs.

    Attributes:
        size: nodes, ranks, GPUs and limits of a single task, and how the recipe or profile wants its jobs. Where
            several one-GPU tasks share the GPUs of a machine, task k is shown all of them and works on the k-th, its
            `Place.local_rank`.
        notice_s: seconds before its time limit at which a task is told to save and end.
        parallel: tasks that may run at once; None for no limit.
        exclude: nodes to avoid, beside ``size.exclude``.
        env: environment variables of the job.
        code: the folder that the job's Python imports from before it looks elsewhere; None: what is installed.
        aftermath: module and arguments that run when a start has ended; the launcher adds the exit code.
    """

    name: str
    logs: Path
    size: "ClusterSpec"
    notice_s: int = 90
    after: After | None = None
    parallel: int | None = None
    exclude: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    code: Path | None = None
    aftermath: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What a launcher says about a job.

    Attributes:
        ended: a cause of the ledger, where the launcher says how the job ended.
        reason: why it waits, or why nothing is known about it ("started on HOST").
        word: the launcher's own word for the state; shown to people, compared by nobody.
    """

    phase: Phase
    ended: Cause | None = None
    node: str = ""
    reason: str = ""
    word: str = ""

    @property
    def is_gone(self) -> bool:
        return self.phase == "gone"


@dataclass(frozen=True)
class Survey:
    """Answers about many jobs of a cluster, by job id.

    Attributes:
        problem: one line on who could not be asked.
        as_of: when the launcher said so, seconds since 1970; None if it was asked just now.
        remark: one line on why the answers are older than people may expect; they are good nevertheless.
    """

    jobs: Mapping[str, Seen]
    problem: str | None = None
    as_of: float | None = None
    remark: str | None = None

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
    """Nodes of a cluster, by name: those that could run a job if it avoided none, and those that it avoids."""

    usable: Collection[str]
    excluded: Collection[str]


@dataclass(frozen=True)
class EndedTask:
    """A process of a job that ended badly, as the launcher tells: its node, and ``how``, with its exit code if any."""

    rank: int
    node: str
    how: str
    code: int | None = None


@dataclass(frozen=True)
class Waiting:
    """Why a job waits, in plain words, what somebody can do about it, and when it may begin, seconds since 1970."""

    reason: str
    advice: str = ""
    expected: float | None = None


@dataclass(frozen=True)
class Held(Waiting):
    """Why a job waits that does not go on until somebody, whom ``advice`` names, releases it."""


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
    """What `cldctl doctor` was asked: one partition or all, and whether to look from a node by a small job.

    Attributes:
        slowest_save_s: how long saving took in the runs so far; None before the first save.
        notice_s: how early before a time limit a job is told to stop.
        say: told what is waited for.
    """

    slowest_save_s: float | None
    notice_s: int

    partition: str | None = None
    job: bool = True
    account: str | None = None
    wait_s: float = 120.0
    say: Callable[[str], object] = lambda text: None
