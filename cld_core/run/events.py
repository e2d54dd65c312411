"""The events of a work: each class is a kind of event, each event a line of a ledger.

Fields that this version does not know are kept (`Event.extra`, `JobRef.details`).
"""

import re
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, get_args

from cld_core.records import keeping, record

# Why an attempt ended. The code of the cluster decides what a signal means.
Cause = Literal[
    "finished",
    "preempted",
    "timeout",
    "terminated",  # SIGTERM or SIGUSR2, for an unknown reason
    "cancelled",  # by `cldctl cancel` or scancel
    "requeued",  # by an administrator
    "node_failure",
    "out_of_memory",
    "crashed",  # an error in the code or on the machine
    "unfit",  # a machine failed a health check before training: of a requeue, never of an attempt
    "nonfinite",  # the loss or the gradient was not finite
    "save_failed",  # a checkpoint could not be written
    "imported",  # not an attempt of this run, which begins with a checkpoint from elsewhere
    "killed",  # without a message, for an unknown reason; or its job was killed, and it saved
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
# Causes of an attempt's end that may not recur after another start.
CRASHES: tuple[Cause, ...] = ("crashed", "out_of_memory", "killed")
# Causes after which the launcher itself starts a job again.
RESTARTED_BY_LAUNCHER: tuple[Cause, ...] = ("preempted", "node_failure", "requeued")
# Causes outside the attempt; others count as crashes, unless they end the training.
_TAKEN: tuple[Cause, ...] = ("preempted", "timeout", "terminated", "requeued", "cancelled")
_AFTER: dict[str, str] = {
    **dict.fromkeys((*_TAKEN, "imported"), "STOPPED"),
    **dict.fromkeys(("killed", "node_failure"), "LOST"),
    "cancelled": "CANCELLED",
    "finished": "FINISHED",
}

# Why a job had nothing to do: the run was finished, held by another job, or the job itself was
# withdrawn.
Why = Literal["finished", "held", "withdrawn"]


# What failed.
Kind = Literal[
    "rank",  # a rank of a training, by an error; the rank itself writes it, if it still can
    "unfit",  # a health check of a machine before training; it costs no retry
    "early",  # a start of a job, which ended before it trained
    "task",  # a task of sharded work, which reports its own error
    "crash",  # a process of sharded work, which ended with an error
]


def state_after(cause: str) -> str:
    """The state of a run whose last attempt ended by this cause, if nothing follows."""
    return _AFTER.get(cause, "FAILED")


def fate_of(cause: Cause | None) -> Literal["preemption", "crashes"] | None:
    """Why the steps beyond the last checkpoint are lost after this cause; None if they are not."""
    if cause in (None, "finished", "imported"):
        return None
    return "preemption" if cause in _TAKEN else "crashes"


@record
class JobRef:
    """A submitted task, and the data with which another process finds it.

    Attributes:
        job_id: the launcher's name for it, digits; ``ARRAY_TASK`` for a task of an array.
        logs: the folder that the job's output goes to.
        restarts: whether the launcher may start the job again, on its own or on request of the job.
        details: data for the job's own cluster, such as host, process id and its start time.
    """

    cluster: str
    job_id: str
    logs: str = ""
    restarts: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


@record
class Event:
    """An event at ``time``; ``extra`` has the fields that this version does not know."""

    time: float = field(default_factory=lambda: round(time.time(), 3))
    extra: Mapping[str, Any] = keeping()


@record
class Requested(Event):
    """Training is to begin or to continue. Written before there is a job.

    Attributes:
        overrides: the overrides of a continuation.
        given: overrides of the first submission; they are part of the frozen recipe.
        profile: the profile whose settings are part of the recipe, or of ``overrides``.
        code: the digest of the code that is stored for the run (`cld_core.run.code`), or "live" for
            the checkout itself.
        live: whether the cluster runs the code of the submitting process instead.
        from_step: the step of `resume --from`.
        host, pid: the submitting process.
        cluster: the name of the cluster that the job is submitted to.
    """

    steps: int
    overrides: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    profile: str | None = None
    code: str | None = None
    live: bool = False
    from_step: int | None = None
    host: str | None = None
    pid: int | None = None
    cluster: str | None = None


@record
class Submitted(Event):
    """A job exists.

    Attributes:
        successor_of: the job whose failure this job waits for.
        shards: the shards that this task of a sharded work computes; None for a training.
        code: the digest of the code that this task of a sharded work is to run; None if unknown.
        exclude: nodes that the job avoids because of earlier failures there.
    """

    job: JobRef
    successor_of: str | None = None
    shards: tuple[int, ...] | None = None
    code: str | None = None
    exclude: tuple[str, ...] = ()


@record
class Imported(Event):
    """The run begins with a checkpoint from elsewhere: attempt 0; the first start is attempt 1.

    Attributes:
        step: the step of the checkpoint; 0 if the run starts from weights alone.
        source: the name of the file or run that the checkpoint is from.
        finished: whether training had ended there.
        source_step: the step in ``source`` of the weights, if the run starts from weights alone.
        fresh: tensors of the network that are initialised, because those of ``source`` do not fit.
    """

    step: int
    source: str
    finished: bool = False
    source_step: int | None = None
    fresh: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Where the checkpoint is from."""
        if self.source_step is None:
            return f"imported from {self.source}"
        started = f"started from {self.source} at step {self.source_step:,}"
        count = len(self.fresh)
        if count == 0:
            return started
        return f"{started}, {count} tensor{'' if count == 1 else 's'} afresh"


@record
class Started(Event):
    """An attempt begins to train at ``step``.

    Attributes:
        restart: earlier starts of the same job by the launcher.
        reached: the step that the previous attempt had reported or saved, in case it could not
            write its end.
        log_offset: size in bytes of the launcher's log at this moment; later notices are about this
            attempt.
        warning: a problem of the running attempt, such as a missing GPU.
        code: the digest of the code that runs.
        gpu: the name of rank 0's GPU; None without one.
        driver: the version of its driver.
        host: the machine of rank 0, as the launcher calls it.
        hosts: the machine of each rank, in their order.
        began: when the launcher gave the job its machines, or its process began; seconds since
            1970.
        heard: when the previous attempt last reported, in case it could not write its end.
        ranks: processes that train.
        gpus: GPUs that are reserved for them.
        cores: CPU cores that are reserved for them.
        data: what identifies the data, by `cld_core.data.identity`; empty if unknown.
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


@dataclass(frozen=True)
class Failed(Event):
    """A part of a job failed in start number ``restart`` of the job; `Kind` says which part.

    Attributes:
        rank: the process that failed.
        host: its machine; empty if unknown.
        check: the health check that failed.
        code: the exit code of the task.
        began: when the launcher gave the job its machines, or its process began, for a start that
            did not train; seconds since 1970.
    """

    kind: Kind
    _: KW_ONLY
    job_id: str
    restart: int = 0
    rank: int = 0
    host: str = ""
    reason: str = ""
    check: str = ""
    code: int | None = None
    began: float | None = None

    @property
    def start(self) -> tuple[str, int]:
        """The start of the job."""
        return self.job_id, self.restart


@record
class Ended(Event):
    """An attempt ended.

    Attributes:
        bug: whether a fault in code or recipe ended it, which another start would meet again.
        afterwards: whether this only corrects the cause of an end that was noted before; the other
            fields of that end stay.
    """

    attempt: int
    cause: Cause
    step: int | None = None
    detail: str | None = None
    bug: bool = False
    afterwards: bool = False


@record
class RolledBack(Event):
    """After a non-finite loss, training was rolled back to the checkpoint of ``to_step``."""

    attempt: int
    to_step: int
    reason: str


@record
class Wished(Event):
    """The job requested a requeue, which its launcher carries out when its processes have ended.

    The next start of the job, or its place in the queue, shows that it was requeued; `Refused`
    shows that it was not.

    Attributes:
        delay_s: the least seconds that the job waits before it begins again.
        exclude: all nodes that the job avoids from then on.
    """

    job_id: str
    cause: Cause
    delay_s: float = 0.0
    exclude: tuple[str, ...] = ()


@record
class GivenUp(Event):
    """The run is not started again: a retry budget is spent.

    Attributes:
        never_began: whether the job could not begin: its recipe is wrong, or there is no checkpoint
            to continue from.
    """

    reason: str
    job_id: str | None = None
    never_began: bool = False


@dataclass(frozen=True)
class Refused(Event):
    """The launcher did not carry out a request.

    A submission: the steps and overrides of the request are not in force. A requeue: the job is not
    in the queue; `resume` continues the run. A cancellation: `Cancelled` has no effect.

    Attributes:
        away: whether the launcher did not answer.
    """

    what: Literal["submission", "requeue", "cancellation"]
    _: KW_ONLY
    reason: str
    job_id: str | None = None
    away: bool = False


@record
class TurnedAway(Event):
    """A job had nothing to do: ``why`` in one word, ``reason`` in more detail if there is any."""

    job_id: str
    why: Why
    reason: str | None = None


@record
class Cancelled(Event):
    """A job was cancelled; an `Ended` event may follow."""

    job_id: str


@record
class Labelled(Event):
    """Tags were added or removed, or the note was replaced; an empty note removes it."""

    note: str | None = None
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class Remarked(Event):
    """A remark for users, without effect on the state; it occurred ``count`` times."""

    kind: Literal[
        "damaged",  # the checkpoint ``what`` was skipped
        "dropped",  # ``what`` could not be written for a while; training continued
        "code",  # a task of sharded work runs other code than it was submitted with
        "recipe",  # the changes that were made to the frozen recipe by hand; empty: none any more
    ]
    _: KW_ONLY
    what: str
    reason: str = ""
    count: int = 1


def name_of(kind: type[Event]) -> str:
    """The ``event`` field of a class, for example ``rolled_back`` for `RolledBack`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


# By their names on a line, in the order of this file.
KINDS: dict[str, type[Event]] = {name_of(kind): kind for kind in Event.__subclasses__()}
