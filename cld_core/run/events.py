"""What can happen to a run, or to sharded work: one frozen dataclass per event, one line each in a ledger.

A line is a JSON object: ``time`` (seconds since 1970), ``event`` (the name of the class in snake case) and those fields
of the class that differ from their defaults. Fields and events that a newer version wrote are kept (`Event.extra`,
`JobRef.details`, `Unknown`), not dropped.
"""

import dataclasses
import functools
import json
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

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
    "nonfinite",  # the loss or the gradient was not finite
    "save_failed",  # a checkpoint could not be written
    "imported",  # not an attempt of ours: the run begins with a checkpoint from elsewhere
    "killed",  # ended without a message, for a reason that nobody knows
]
CAUSES: tuple[Cause, ...] = get_args(Cause)

# Why a job had nothing to do: the run was finished, held by another job, or the job itself was withdrawn.
Why = Literal["finished", "held", "withdrawn"]


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
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Unknown(Event):
    """An event that this version does not know; all its fields are in ``extra``."""

    event: str


@dataclass(frozen=True, kw_only=True)
class Requested(Event):
    """Training is to begin or to continue; written before there is a job."""

    steps: int
    overrides: tuple[str, ...] = ()
    from_step: int | None = None


@dataclass(frozen=True, kw_only=True)
class NotSubmitted(Event):
    """The scheduler refused a request, or did not answer (``away``)."""

    reason: str
    away: bool = False


@dataclass(frozen=True, kw_only=True)
class Submitted(Event):
    """A job exists.

    Attributes:
        successor_of: the job that this one waits for to end badly.
        shards: of sharded work, the shards that this task computes; None for a training run.
    """

    job: JobRef
    successor_of: str | None = None
    shards: tuple[int, ...] | None = None


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
        reached: the step that the attempt before had reported, in case it could not write its end.
        log_offset: size in bytes of the launcher's log at this moment; later notices are about this attempt.
        warning: what is wrong while the attempt runs, such as a missing GPU.
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
    """The job put itself back into the queue."""

    job_id: str
    cause: Cause
    delay_s: float = 0.0


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
    """A job that had trained before was started again and ended before it trained."""

    job_id: str
    restart: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Crashed(Event):
    """A task of sharded work ended with an error."""

    job_id: str
    restart: int
    code: int
    node: str | None = None


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
class Cancelled(Event):
    """Somebody asked a job to end; an `Ended` event may follow."""

    job_id: str


def name_of(kind: type[Event]) -> str:
    """The ``event`` field of a class, for example ``rolled_back`` for `RolledBack`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


# By their names on a line, in the order of this file.
KINDS: dict[str, type[Event]] = {name_of(kind): kind for kind in Event.__subclasses__() if kind is not Unknown}


def to_line(event: Event) -> str:
    """One line of JSON without a line break, which `parse` turns back into an equal event."""
    name = event.event if isinstance(event, Unknown) else name_of(type(event))
    values = _values(event, without=("time", "extra", "event"))
    if isinstance(event, Submitted):
        values["job"] = _values(event.job)
    return json.dumps({"time": event.time, "event": name, **values, **event.extra})


def parse(line: str) -> Event | None:
    """The event on a line; None for a line that a killed writer left unfinished.

    A known name with other fields, or with values of other types, is `Unknown`: another version gave it that meaning.
    """
    try:
        content = json.loads(line)
        name, at = str(content.pop("event")), float(content.pop("time"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    kind = KINDS.get(name)
    try:
        if kind is not None:
            values, extra = _fields(kind, content)
            return kind(time=at, extra=extra, **values)
    except TypeError:
        pass
    return Unknown(time=at, event=name, extra=content)


def _fields(kind: type[Event | JobRef], content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of ``kind`` in a JSON object, and those that it does not have.

    Raises:
        TypeError: it is not an object, or a field has a value of another type.
    """
    if not isinstance(content, dict):
        raise TypeError(f"{content!r} is not an object")
    types, values, extra = _types(kind), {}, {}
    for name, value in content.items():
        value = tuple(value) if isinstance(value, list) else value
        if name not in types:
            extra[name] = value
            continue
        if types[name] is JobRef:
            own, unknown = _fields(JobRef, value)
            value = JobRef(**{**own, "details": {**own.get("details", {}), **unknown}})
        if not _fits(value, types[name]):
            raise TypeError(f"{name} cannot be {value!r}")
        values[name] = value
    return values, extra


@functools.cache
def _types(kind: type[Any]) -> dict[str, Any]:
    """The types of the fields that a line may have, besides time."""
    return {name: hint for name, hint in get_type_hints(kind).items() if name not in ("time", "extra")}


def _fits(value: Any, hint: Any) -> bool:
    parts = get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in parts)
    origin = get_origin(hint) or hint
    if origin is tuple:
        return isinstance(value, tuple) and all(isinstance(entry, parts[0]) for entry in value)
    # A newer version may know more literals.
    return isinstance(value, {Literal: str, float: int | float}.get(origin, origin))


def _values(record: Event | JobRef, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass, in order, that are required or differ from their defaults."""
    entries = [entry for entry in dataclasses.fields(record) if entry.name not in without]
    values = {entry.name: getattr(record, entry.name) for entry in entries}
    return {entry.name: values[entry.name] for entry in entries if values[entry.name] != _default(entry)}


def _default(entry: "Field[Any]") -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()
