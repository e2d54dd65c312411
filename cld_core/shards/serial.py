"""Dataclasses from the plain content that `dataclasses.asdict` and JSON made of them."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cld_core.small_files import real, text, whole

T = TypeVar("T")
_PLAIN: dict[Any, Callable[[Any], bool]] = {
    int: lambda value: whole(value, least=-(2**62)) is not None,
    float: lambda value: real(value) is not None,
    str: lambda value: text(value) is not None,
    bool: lambda value: isinstance(value, bool),
    None: lambda value: value is None,
    type(None): lambda value: value is None,
}


def from_plain(kind: type[T], content: Mapping[str, Any], chosen: Mapping[str, type] | None = None) -> T:
    """An instance of a dataclass from a dictionary; nested dataclasses are built, unknown entries ignored.

    Args:
        chosen: by field, the class to build if the annotation names only its base.

    Raises:
        TypeError: a field without a default is missing, or the content does not fit.
        CldError: a class does not accept its values.
    """
    hints = {**typing.get_type_hints(kind), **(chosen or {})}
    # A type variable cannot be bound to "any dataclass".
    names = [entry.name for entry in dataclasses.fields(kind) if entry.init]  # type: ignore[arg-type]
    return kind(**{name: _value(hints[name], content[name]) for name in names if name in content})


def _value(hint: Any, content: Any) -> Any:
    if isinstance(content, list):
        content = tuple(content)
    options = [option for option in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(option)]
    if content is None or not options:
        if not fits(content, hint):
            raise TypeError(f"{content!r} is not of type {hint}")
        return content
    assert len(options) == 1, f"{hint} does not say which class to build"
    if not isinstance(content, Mapping):
        raise TypeError(f"{content!r} is not an object")
    return from_plain(typing.cast(type, options[0]), content)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value, with tuples in place of lists, is of an annotated type; numbers have to be finite."""
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, option) for option in inner)
    if origin is typing.Literal:
        return isinstance(value, str | int) and value in inner
    if origin in (tuple, list):
        return isinstance(value, tuple) and all(fits(entry, inner[0]) for entry in value if inner)
    if origin is dict:
        return isinstance(value, dict) and all(fits(entry, inner[1]) for entry in value.values() if inner)
    if origin in _PLAIN:
        return _PLAIN[origin](value)
    return origin is Any or (isinstance(origin, type) and isinstance(value, origin))
