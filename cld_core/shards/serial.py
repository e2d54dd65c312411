"""Dataclasses from the plain content that `dataclasses.asdict` and JSON made of them."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def from_plain(kind: type[T], content: Mapping[str, Any], chosen: Mapping[str, type] | None = None) -> T:
    """An instance of a dataclass from a dictionary; nested dataclasses are built, unknown entries ignored.

    Args:
        chosen: by field, the class to build if the annotation names only its base.

    Raises:
        TypeError: a field without a default is missing, or the content does not fit.
    """
    hints = {**typing.get_type_hints(kind), **(chosen or {})}
    # A type variable cannot be bound to "any dataclass".
    names = [entry.name for entry in dataclasses.fields(kind) if entry.init]  # type: ignore[arg-type]
    return kind(**{name: _value(hints[name], content[name]) for name in names if name in content})


def _value(hint: Any, content: Any) -> Any:
    if isinstance(content, list):
        return tuple(content)
    options = [option for option in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(option)]
    if content is None or not options:
        return content
    assert len(options) == 1, f"{hint} does not say which class to build"
    return from_plain(typing.cast(type, options[0]), content)
