"""Dataclasses from the plain content that `dataclasses.asdict` and JSON made of them."""

import dataclasses
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def from_plain(kind: type[T], content: Any) -> T:
    """An instance of a dataclass from a dictionary; unknown entries are ignored, nested dataclasses are built.

    Of a union of dataclasses the one is built whose fields are those of the content.

    Raises:
        TypeError: a field without a default is missing, or the content does not fit.
    """
    hints = typing.get_type_hints(kind)
    names = [entry.name for entry in dataclasses.fields(kind) if entry.init]  # type: ignore[arg-type]
    return kind(**{name: _value(hints[name], content[name]) for name in names if name in content})


def _value(hint: Any, content: Any) -> Any:
    if content is None:
        return None
    if typing.get_origin(hint) is tuple:
        return tuple(content)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)
    classes = [option for option in options if dataclasses.is_dataclass(option)]
    if not classes:
        return content
    fitting = [option for option in classes if {entry.name for entry in dataclasses.fields(option)} == content.keys()]
    if not fitting:
        names = " or ".join(option.__name__ for option in classes)
        raise TypeError(f"{', '.join(content)} are not the fields of {names}")
    return from_plain(fitting[0], content)
