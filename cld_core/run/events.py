"""What can happen to a run, or to sharded work: one frozen dataclass per event, one line each in a ledger.

Fields that this version does not know are kept (`Event.extra`, `JobRef.details`).
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cld_core.codec import keeping

# Why an attempt ended. What a signal means is decided where the cluster is known.
Cause = Literal[
    "finished",
    "preempted",  # SIGUSR2: a notice of preemption or of the time limit
    "timeout",  # SIGUSR2 near the known time limit
    "terminated",  # SIGTERM
    "cancelled",  # by `cldctl cancel` or scancel
    "requeued",  # by an administrator
    "node_failure",
    "out_of_memory",
    "crashed",  # an error in the code or on the machine
    "unfit",  # a machine failed a health check before training: of a requeue, never of an attempt
    "nonfinite",  # the loss or the gradient was not finite
    "save_failed",  # a checkpoint could not be written
    "imported",  # not an attempt of ours: the run begins with a checkpoint from elsewhere
    "killed",  # ended without a message, for a reason that nobody knows
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
# Causes of an attempt's end that another start may not meet again.
CRASHES: tuple[Cause, ...] = ("crashed", "out_of_memory", "killed")
# Causes after which the launcher itself starts a job again.
RESTARTED_BY_LAUNCHER: tuple[Cause, ...] = ("preempted", "node_failure", "requeued")
# What an attempt was taken away by; anything else that is not an end of the training counts as a crash.
_TAKEN: tuple[Cause, ...] = ("preempted", "timeout", "terminated", "requeued", "cancelled")
_AFTER: dict[str, str] = {
    **dict.fromkeys((*_TAKEN, "imported"), "STOPPED"),
    **dict.fromkeys(("killed", "node_failure"), "LOST"),
    "cancelled": "CANCELLED",
    "finished": "FINISHED",
}

# Why a job had nothing to do: the run was finished, held by another job, or the job itself was withdrawn.
Why = Literal["finished", "held", "withdrawn"]


def state_after(cause: str) -> str:
    """The state of a run whose last attempt ended by this cause, if nothing follows."""
    return _AFTER.get(cause, "FAILED")


def fate_of(cause: Cause | None) -> Literal["preemption", "crashes"] | None:
    """What the steps beyond the last checkpoint are lost to after this cause; None if nothing is lost."""
    if cause in (None, "finished", "imported"):
        return None
    return "preemption" if cause in _TAKEN else "crashes"


@dataclass(frozen=True, kw_only=True)
class JobRef:
    """A submitted task, and what finds it again from another process.

    Attributes:
        job_id: the launcher's name for it; ``ARRAY_TASK`` for a task of a Slurm array.
        process: where one job pools many tasks, the number of the process that runs this one.
        logs: the folder that the job's output goes to.
        restarts: whether the launcher may start the job again, on its own or when asked from inside.
        details: what only the job's own cluster reads, such as host, process id and its start time.
    """

    cluster: str
    job_id: str
    process: int = 0
    logs: str = ""
    restarts: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened at ``time``; ``extra`` holds the fields that this version does not know."""

    time: float = field(default_factory=lambda: round(time.time(), 3))
    extra: Mapping[str, Any] = keeping()


@dataclass(frozen=True, kw_only=True)
class Requested(Event):
    """Training is to begin or to continue; written before there is a job, by process ``pid`` of ``host``.

    Attributes:
        cluster: the name of the cluster that is asked for the job.
        given: overrides that the command line of the first submission gave; they are part of the frozen recipe.
        profile: the profile whose settings are part of the recipe, or of ``overrides``.
        code: the digest of the code that the job runs, "live" for the checkout itself.
    """

    steps: int
    overrides: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    profile: str | None = None
    code: str | None = None
    from_step: int | None = None
    host: str | None = None
    pid: int | None = None
    cluster: str | None = None


@dataclass(frozen=True, kw_only=True)
class NotSubmitted(Event):
    """The scheduler refused a request, or did not answer (``away``): its steps and overrides are not in force."""

    reason: str
    away: bool = False


@dataclass(frozen=True, kw_only=True)
class Submitted(Event):
    """A job exists.

    Attributes:
        successor_of: the job that this one waits for to end badly.
        shards: of sharded work, the shards that this task computes; None for a training run.
        code: of sharded work, the digest of the code that the task is to run; None if nobody knows.
        exclude: nodes that it avoids because of what happened there.
    """

    job: JobRef
    successor_of: str | None = None
    shards: tuple[int, ...] | None = None
    code: str | None = None
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Imported(Event):
    """The run begins with a checkpoint from elsewhere. It counts as attempt 0, so the first start is attempt 1."""

    step: int
    source: str
    finished: bool = False


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """An attempt begins to train at ``step``.

    Attributes:
        restart: earlier starts of the same job by the launcher.
        reached: the step that the attempt before had reported or saved, in case it could not write its end.
        log_offset: size in bytes of the launcher's log at this moment; later notices are about this attempt.
        warning: what is wrong while the attempt runs, such as a missing GPU.
        code: the digest of the code that runs.
        gpu: the name of rank 0's GPU, and ``driver`` the version of its driver; None without one.
        host: the machine of rank 0, as the launcher calls it, and ``hosts`` that of each rank, in their order.
        began: when the launcher gave the job its machines, or its process began; seconds since 1970.
        heard: when the attempt before last reported, in case it could not write its end.
        ranks: processes that train, and ``gpus`` and ``cores`` (of CPUs) that are reserved for them.
        data: what identifies the data, by `cld_core.data.identity`; empty if nobody knows.
    """

    attempt: int
    job_id: str | None
    step: int
    host: str | None = None
    pid: int | None = None
    restart: int = 0
    reached: int | None = None
    log_offset: int | None = None
    warning: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None
    gpu: str | None = None
    driver: str | None = None
    hosts: tuple[str, ...] = ()
    began: float | None = None
    heard: float | None = None
    ranks: int | None = None
    gpus: int | None = None
    cores: int | None = None
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RankFailed(Event):
    """One rank of an attempt ended with an error, on ``host``; the rank itself writes it, if it still can."""

    job_id: str
    restart: int
    rank: int
    host: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Unfit(Event):
    """A machine failed a health check before training: it is not the run's fault, and costs no retry.

    ``host`` is empty if nobody knows which one; ``began`` as in `Started`.
    """

    job_id: str
    restart: int
    rank: int
    host: str
    check: str
    reason: str
    began: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ended(Event):
    """An attempt ended; ``bug``: by a fault in code or recipe, which another start would meet again."""

    attempt: int
    cause: Cause
    step: int | None = None
    detail: str | None = None
    bug: bool = False


@dataclass(frozen=True, kw_only=True)
class RolledBack(Event):
    """The loss or a gradient exploded, and training went back to the checkpoint of ``to_step``."""

    attempt: int
    to_step: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Explained(Event):
    """Found out afterwards: why an attempt ended."""

    attempt: int
    cause: Cause


@dataclass(frozen=True, kw_only=True)
class Requeued(Event):
    """The job put itself back into the queue.

    Attributes:
        delay_s: seconds that it waits at least before it begins again.
        exclude: all nodes that it avoids from now on.
    """

    job_id: str
    cause: Cause
    delay_s: float = 0.0
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GivenUp(Event):
    """A retry budget is spent; the run is not started again."""

    reason: str
    job_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class NotBegun(Event):
    """A job could not begin: its recipe is wrong, or there is no checkpoint to continue from."""

    job_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class DiedEarly(Event):
    """A start of a job ended before it trained; ``began`` as in `Started`."""

    job_id: str
    restart: int
    reason: str
    began: float | None = None


@dataclass(frozen=True, kw_only=True)
class Crashed(Event):
    """A task of sharded work ended with an error."""

    job_id: str
    restart: int
    code: int
    node: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskFailed(Event):
    """A task of sharded work met an error, in its own words; whether it starts again is decided by others."""

    job_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class OtherCode(Event):
    """A task of sharded work runs other code (``code``) than that which was there when it was submitted (``asked``)."""

    job_id: str
    code: str
    asked: str

    @property
    def said(self) -> str:
        """The event in words, with the first digits of the digests."""
        now, asked = (re.sub(r"([0-9a-f]{12})[0-9a-f]{52}", r"\1", text) for text in (self.code, self.asked))
        return f"job {self.job_id} runs code {now}, not {asked}, which was there when it was submitted"


@dataclass(frozen=True, kw_only=True)
class TurnedAway(Event):
    """A job had nothing to do; ``reason`` says more than ``why``, if there is more to say."""

    job_id: str
    why: Why
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Damaged(Event):
    """The checkpoint of ``step`` was skipped."""

    step: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dropped(Event):
    """For a while, something that is not worth a training could not be written: ``count`` times ``what``."""

    what: str
    count: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class NotRequeued(Event):
    """The job could not be put back into the queue, after all; `resume` continues the run."""

    job_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Cancelled(Event):
    """Somebody asked a job to end; an `Ended` event may follow."""

    job_id: str


@dataclass(frozen=True, kw_only=True)
class RecipeEdited(Event):
    """Somebody has changed these keys of the frozen recipe by hand; none any more if there are no ``keys``.

    Attributes:
        values: for each key in words, what it is now and was at first.
    """

    keys: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NotCancelled(Event):
    """The launcher did not end a job, though somebody asked for it: `Cancelled` counts for nothing."""

    job_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Noted(Event):
    """Somebody wrote a note about the run; it replaces the one before, and an empty one removes it."""

    note: str


@dataclass(frozen=True, kw_only=True)
class Tagged(Event):
    """Somebody gave the run tags, or took some from it."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


def name_of(kind: type[Event]) -> str:
    """The ``event`` field of a class, for example ``rolled_back`` for `RolledBack`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


# By their names on a line, in the order of this file.
KINDS: dict[str, type[Event]] = {name_of(kind): kind for kind in Event.__subclasses__()}
