"""Events as lines of a ledger.

A line is a JSON object: ``time`` (seconds since 1970), ``event`` (the name of the class in snake case) and those fields
of the class that differ from their defaults.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Collection
from dataclasses import MISSING, Field
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cld_core.small_files import parse_json, real, text, whole

from .events import KINDS, Event, JobRef, Submitted, name_of

# The fields that a line may have, besides time, and their types.
_TYPES = {
    kind: {name: hint for name, hint in get_type_hints(kind).items() if name not in ("time", "extra")}
    for kind in (*KINDS.values(), JobRef)
}

# What may name a job or a cluster: it is passed on to commands of the scheduler, and is part of a file's name.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")

# What a field of a plain type may hold. Of literals, any text: another version may know more of them.
_WITHIN_BOUNDS: dict[Any, Callable[[Any], Any]] = {
    int: functools.partial(whole, least=-1),
    float: real,
    str: text,
    Literal: text,
}


def to_line(event: Event) -> str:
    """One line of JSON without a line break, which `parse` turns back into an equal event."""
    values = _values(event, without=("time", "extra"))
    if isinstance(event, Submitted):
        values["job"] = _values(event.job)
    return json.dumps({"time": event.time, "event": name_of(type(event)), **values, **event.extra})


def parse(line: str) -> Event | None:
    """The event on a line; None for one that is no event of this version, or that a killed writer left unfinished."""
    try:
        content = parse_json(line)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    kind, at = KINDS.get(text(content.pop("event", None)) or ""), real(content.pop("time", None))
    if kind is None or at is None:
        return None
    try:
        values, extra = _fields(kind, content)
        return kind(time=at, extra=extra, **values)
    except TypeError:
        return None


def _fields(kind: type[Event | JobRef], content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of ``kind`` in a JSON object, and those that it does not have.

    Raises:
        TypeError: it is not an object, or a field has a value of another type.
    """
    if not isinstance(content, dict):
        raise TypeError(f"{content!r} is not an object")
    types, values, extra = _TYPES[kind], {}, {}
    for name, value in content.items():
        value = tuple(value) if isinstance(value, list) else value
        if name not in types:
            extra[name] = value
            continue
        if types[name] is JobRef:
            own, unknown = _fields(JobRef, value)
            if not all(_WORD.fullmatch(own.get(part, "")) for part in ("cluster", "job_id")):
                raise TypeError(f"{value!r} is not a job")
            value = JobRef(**{**own, "details": {**own.get("details", {}), **unknown}})
        if not _fits(value, types[name]):
            raise TypeError(f"{name} cannot be {value!r}")
        values[name] = value
    return values, extra


def _fits(value: Any, hint: Any) -> bool:
    parts = get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in parts)
    origin = get_origin(hint) or hint
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(entry, parts[0]) for entry in value)
    if origin in _WITHIN_BOUNDS:
        return _WITHIN_BOUNDS[origin](value) is not None
    return isinstance(value, origin)


def _values(record: Event | JobRef, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass, in order, that are required or differ from their defaults."""
    entries = [entry for entry in dataclasses.fields(record) if entry.name not in without]
    values = {entry.name: getattr(record, entry.name) for entry in entries}
    return {entry.name: values[entry.name] for entry in entries if values[entry.name] != _default(entry)}


def _default(entry: "Field[Any]") -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()
