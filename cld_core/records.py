"""Conversion between dataclasses and the JSON of files and ledgers.

A record is a dataclass; `record` makes most of them. The annotations of its fields decide what is a
tuple, a nested record, a literal or a union, which JSON cannot express. Numbers are finite and
within `MAX_NUMBER`, and strings can be written as UTF-8.

Unknown fields are ignored, unless a field of the record keeps them (`keeping`). A `TypedDict` whose
fields may all be missing keeps unknown fields, and drops fields of a wrong type: a file that is
damaged in part is still of use to readers.
"""

import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, dataclass_transform

from cld_core.errors import CldError
from cld_core.files import MAX_JSON_BYTES, parse_json, read_bytes

T = TypeVar("T")
# A computed number, which may be too large, infinite, or NaN.
Result = typing.NewType("Result", float)
# The largest number of steps, bytes or seconds; a larger one is damage.
MAX_NUMBER = 2**62
_UNKNOWN = "unknown fields"
_Reader = Callable[[Any, str], Any]


class RecordError(CldError, ValueError):
    """A record is damaged or of another version. The message names the field, and any file."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[T]) -> type[T]:
    """The decorator of records: frozen dataclasses, which are made with keyword arguments."""
    return dataclass(frozen=True, kw_only=True)(cls)


def keeping() -> Any:
    """A field for a mapping of unknown fields, which are written beside the known ones."""
    return field(default_factory=dict, metadata={_UNKNOWN: True})


def to_plain(value: Any, *, sparse: bool = False) -> Any:
    """A value for `json.dumps`: dictionaries in place of records, lists in place of tuples.

    Args:
        sparse: leave out fields that have their defaults.
    """
    if is_dataclass(value):
        plain: dict[str, Any] = {}
        unknown: dict[str, Any] = {}
        for entry in fields(value):
            content = getattr(value, entry.name)
            if _UNKNOWN in entry.metadata:
                unknown = to_plain(content)
            elif not sparse or content != _default(entry):
                plain[entry.name] = to_plain(content, sparse=sparse)
        return {**plain, **unknown}
    if isinstance(value, Mapping):
        return {name: to_plain(entry, sparse=sparse) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(entry, sparse=sparse) for entry in value]
    return value


def from_plain(
    kind: type[T], plain: Any, *, chosen: Mapping[str, type] | None = None, any_word: bool = False
) -> T:
    """A value of an annotated type, for example a record; the inverse of `to_plain`.

    Args:
        chosen: by field of a record, the class to build if the annotation is only its base class.
        any_word: accept any string for a literal, since a later version may have more of them.

    Raises:
        RecordError: a field is missing, or of another type.
        CldError: a class does not accept its values.
    """
    hint: Any = kind
    if chosen:
        reader = _of_record(hint, any_word, tuple(chosen.items()))
    else:
        reader = _reader(hint, any_word)
    return typing.cast(T, reader(plain, ""))


def read_record(kind: type[T], file: Path) -> T:
    """The record in a file.

    Raises:
        RecordError: it is damaged, or of another version.
        OSError: there is no such file, or it cannot be read.
    """
    try:
        return from_plain(kind, parse_json(read_bytes(file, limit=MAX_JSON_BYTES)))
    except ValueError as error:
        raise RecordError(f"{file}: {error}") from error


def find_record(kind: type[T], file: Path) -> T | None:
    """The record in a file; None if it cannot be read, or is damaged."""
    try:
        return read_record(kind, file)
    except (OSError, RecordError):
        return None


def whole(value: Any, least: int = 0) -> int | None:
    """``value`` if it is a whole number from ``least`` to `MAX_NUMBER`; else None."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and least <= value <= MAX_NUMBER else None


def real(value: Any) -> float | None:
    """``value`` if it is a finite number within `MAX_NUMBER`; else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) <= MAX_NUMBER else None


def text(value: Any) -> str | None:
    """``value`` if it is a string that can be written as UTF-8; else None."""
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        return None
    return value


def _default(entry: "Field[Any]") -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


# By plain type, a description of its values, and whether a value is one of them.
_PLAIN: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    int: ("a whole number", lambda value: whole(value, -MAX_NUMBER) is not None),
    float: ("a finite number", lambda value: real(value) is not None),
    Result: ("a number", lambda value: real(value) is not None or isinstance(value, float)),
    str: ("a string", lambda value: text(value) is not None),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    type(None): ("null", lambda value: value is None),
}


@functools.cache
def _reader(hint: Any, any_word: bool) -> _Reader:
    """A function that converts a plain value to an annotated type, or raises `RecordError`.

    It takes the plain value, and its place in the record for messages.
    """
    origin: Any = typing.get_origin(hint) or hint
    inner = typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _of_union(tuple(_reader(option, any_word) for option in inner))
    if origin is Literal:
        if any_word and all(isinstance(word, str) for word in inner):
            return _of_plain(*_PLAIN[str])
        # Types are compared, too, because 1 equals True.
        words = {(type(word), word) for word in inner}
        described = f"one of {', '.join(map(repr, inner))}"
        return _of_plain(
            described, lambda value: isinstance(value, str | int) and (type(value), value) in words
        )
    if origin in (tuple, Sequence):
        return _of_tuple(inner, any_word)
    if origin in (dict, Mapping):
        return _of_mapping(_reader(inner[1] if inner else Any, any_word))
    if typing.is_typeddict(hint):
        return _of_loose(hint, any_word)
    if is_dataclass(hint):
        return _of_record(typing.cast(Any, hint), any_word, ())
    if origin in _PLAIN:
        return _of_plain(*_PLAIN[origin])
    assert origin in (Any, object), f"a record cannot have a field of type {hint}"
    return lambda plain, place: plain


def _of_plain(described: str, fits: Callable[[Any], bool]) -> _Reader:
    def read(plain: Any, place: str) -> Any:
        if not fits(plain):
            raise _misfit(place, plain, described)
        return plain

    return read


def _of_union(options: Sequence[_Reader]) -> _Reader:
    def read(plain: Any, place: str) -> Any:
        problems = []
        for option in options:
            try:
                return option(plain, place)
            except RecordError as error:
                problems.append(error)
        # Of "RECORD | None", the error of the record is the more precise one.
        raise problems[0] if plain is not None else problems[-1]

    return read


def _of_tuple(inner: tuple[Any, ...], any_word: bool) -> _Reader:
    fixed = bool(inner) and Ellipsis not in inner
    readers = [_reader(entry, any_word) for entry in inner or (Any,) if entry is not Ellipsis]

    def read(plain: Any, place: str) -> Any:
        if not isinstance(plain, list | tuple):
            raise _misfit(place, plain, "a list")
        if fixed and len(plain) != len(readers):
            raise _misfit(place, plain, f"a list of {len(readers)}")
        each = readers if fixed else readers * len(plain)
        pairs = enumerate(zip(each, plain, strict=True))
        return tuple(reader(entry, f"{place}[{number}]") for number, (reader, entry) in pairs)

    return read


def _of_mapping(entry: _Reader) -> _Reader:
    def read(plain: Any, place: str) -> Any:
        names = _object(plain, place)
        return {name: entry(value, _inside(place, name)) for name, value in names.items()}

    return read


def _of_loose(kind: Any, any_word: bool) -> _Reader:
    readers = {name: _reader(hint, any_word) for name, hint in typing.get_type_hints(kind).items()}

    def read(plain: Any, place: str) -> Any:
        values = dict(_object(plain, place))
        for name in readers.keys() & values.keys():
            try:
                values[name] = readers[name](values[name], _inside(place, name))
            except RecordError:
                del values[name]
        return values

    return read


@functools.cache
def _of_record(kind: Any, any_word: bool, chosen: tuple[tuple[str, type], ...]) -> _Reader:
    hints = {**typing.get_type_hints(kind), **dict(chosen)}
    entries = {entry.name: entry for entry in fields(kind) if entry.init}
    keeper = next((name for name, entry in entries.items() if _UNKNOWN in entry.metadata), None)
    readers = {name: _reader(hints[name], any_word) for name in entries if name != keeper}
    required = [
        name
        for name, entry in entries.items()
        if entry.default is MISSING and entry.default_factory is MISSING
    ]

    def read(plain: Any, place: str) -> Any:
        content = _object(plain, place)
        values = {
            name: readers[name](value, _inside(place, name))
            for name, value in content.items()
            if name in readers
        }
        for name in required:
            if name not in values:
                raise RecordError(f"{_inside(place, name)} is missing")
        if keeper is not None:
            values[keeper] = {name: value for name, value in content.items() if name not in readers}
        return kind(**values)

    return read


def _object(plain: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(plain, Mapping) or any(text(name) is None for name in plain):
        raise _misfit(place, plain, "an object")
    return plain


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _misfit(place: str, plain: Any, described: str) -> RecordError:
    return RecordError(f"{place or 'its content'} is {repr(plain)[:60]}, not {described}")
