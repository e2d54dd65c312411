"""The keys of a recipe: their defaults, bounds, types and descriptions.

A spec is a frozen dataclass whose fields are made by `key` and `section`, and read by `entries`.
"""

import functools
import math
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, dataclass_transform

from cld_core.errors import RecipeError
from cld_core.records import record
from cld_core.sanitize import is_control

# A key, another key that it does not go with (or itself), and the rest of the sentence that begins
# with the first key: the mistake and its fix.
Problem = tuple[str, str, str]

# The shape of an example: (d), (C, L) or (C, H, W).
Shape = tuple[int, ...]
# Values by name, nested or by dotted key.
Values = Mapping[str, Any]

WRONG = object()
# Whole numbers have 64 bits wherever they are used.
MAX_INT = 2**63 - 1
# The longest path that Linux accepts.
MAX_TEXT = 4096

_YAML_WORDS = {"None": "null", "True": "true", "False": "false"}
_BOUNDS: dict[str, tuple[str, Callable[[Any, float], bool]]] = {
    "gt": (">", operator.gt),
    "ge": (">=", operator.ge),
    "lt": ("<", operator.lt),
    "le": ("<=", operator.le),
}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


Spec = TypeVar("Spec")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def spec_class(cls: type[Spec]) -> type[Spec]:
    """The decorator of specs, which are records.

    A subclass changes the default of an inherited key with ``eta: float = 1.0``; its bounds and
    description remain.
    """
    inherited = fields(cls) if is_dataclass(cls) else ()
    for key_field in inherited:
        default = vars(cls).get(key_field.name, key_field)
        if not isinstance(default, Field):
            setattr(cls, key_field.name, field(default=default, metadata=key_field.metadata))
    return record(cls)


def key(default: Any, doc: str, *, is_path: bool = False, **bounds: float) -> Any:
    """A recipe key with its default and its one-line description.

    Args:
        is_path: the value is a path, which `Recipe.anchored` makes absolute.
        bounds: `gt`, `ge`, `lt` and `le`, for the value, or for each value of a list.
    """
    if wrong := bounds.keys() - _BOUNDS.keys():
        raise TypeError(
            f"a key is bounded by {', '.join(_BOUNDS)}, not by {', '.join(sorted(wrong))}"
        )
    metadata = {"doc": doc, "is_path": is_path, "bounds": tuple(bounds.items())}
    return field(default=default, metadata=metadata)


def section(spec: type, doc: str) -> Any:
    """A section of a recipe, or in another section, with its spec and its one-line description."""
    return field(default_factory=spec, metadata={"doc": doc})


@dataclass(frozen=True)
class Entry:
    """A key or a section of a spec.

    Attributes:
        hint: the type of the values; of a section, its spec.
        usual: the default.
    """

    hint: Any
    usual: Any = None
    doc: str = ""
    bounds: tuple[tuple[str, float], ...] = ()
    is_path: bool = False

    @functools.cached_property
    def is_section(self) -> bool:
        return is_dataclass(self.hint)

    @property
    def options(self) -> tuple[str, ...]:
        """All values, if they can be listed, in the spelling of YAML."""
        return ("true", "false") if self.hint is bool else tuple(_literals(self.hint))

    @property
    def expects(self) -> str:
        """The values that it takes, in words, with their bounds."""
        types_of_union = typing.get_args(self.hint)
        is_optional = type(None) in types_of_union
        base: Any = types_of_union[0] if is_optional else self.hint
        if literals := _literals(self.hint):
            text = f"one of {', '.join(literals)}"
        elif typing.get_origin(base) is tuple:
            text = f"a list, each {_WORDS[typing.get_args(base)[0]]}"
        else:
            text = _WORDS.get(base, "a value")
        if self.bounds:
            limits = [f"{_BOUNDS[name][0]} {bound:g}" for name, bound in self.bounds]
            text += f" {' and '.join(limits)}"
        if is_optional:
            text += " or null"
        return text

    def convert(self, value: Any) -> Any:
        """``value`` in the type of the key, or `WRONG`."""
        converted = convert(value, self.hint)
        if converted is WRONG:
            return WRONG
        for item in converted if isinstance(converted, tuple) else (converted,):
            for name, bound in self.bounds:
                if item is not None and not _BOUNDS[name][1](item, bound):
                    return WRONG
        return converted


# Most of the time of checking a recipe is spent on its annotations, and every call of
# `Model.sample` checks one.
@functools.lru_cache(maxsize=200)
def entries(spec: type) -> dict[str, Entry]:
    """The keys and sections of a spec by name."""
    hints = typing.get_type_hints(spec)
    by_name = {}
    for own in fields(spec):
        usual = None if own.default is MISSING else own.default
        by_name[own.name] = Entry(hints[own.name], usual, **own.metadata)
    return by_name


def is_due(step: int, every: int | None, first: int) -> bool:
    """Whether ``step`` is a multiple of ``every``, and not before ``first``."""
    return every is not None and step >= first and step % every == 0


def absolute(name: str, value: str, folder: Path) -> str:
    """A path, taken from ``folder`` if it is relative.

    Raises:
        RecipeError: it begins with a home folder that does not exist.
    """
    try:
        return str(folder.absolute() / Path(value).expanduser())
    except RuntimeError as error:
        raise RecipeError(
            f"'{name}' cannot be {value!r}: there is no such home folder. Correct it."
        ) from error


def convert(value: Any, hint: Any, keep: str = "") -> Any:
    """``value`` as the type ``hint``, or `WRONG`.

    Types are not mixed: '3' is not a number, and 1 is not true. Whole numbers may be written as
    1e3.

    Args:
        keep: control characters that a text may have.
    """
    origin = typing.get_origin(hint)
    if hint is Any:
        return tuple(value) if isinstance(value, list) else value
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            if (converted := convert(value, option, keep)) is not WRONG:
                return converted
        return WRONG
    if hint is type(None):
        return None if value is None else WRONG
    if origin is Literal:
        for option in typing.get_args(hint):
            # 1 == True, but it is not one of auto, true and false.
            if option == value and type(option) is type(value):
                return option
        return WRONG
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            return WRONG
        # An item may be several lines of shell code.
        items = tuple(convert(item, inner, "\n\t") for item in value)
        return WRONG if WRONG in items else items
    if hint is bool:
        return value if isinstance(value, bool) else WRONG
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) > MAX_INT):
        return WRONG
    if hint is int:
        integral = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return int(value) if integral and abs(value) <= MAX_INT else WRONG
    if hint is float:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else WRONG
    if hint is str:
        # Names that are numbers, such as accounts, need no quotes.
        if isinstance(value, int):
            return str(value)
        return value if is_text(value, keep) else WRONG
    raise AssertionError(f"a spec uses a type that recipes do not support: {hint}")


def is_text(value: Any, keep: str = "") -> bool:
    """Whether ``value`` is a text of at most `MAX_TEXT` characters, none of them control characters
    except for ``keep``."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return False
    return not any(is_control(character) for character in value if character not in keep)


def _literals(hint: Any) -> list[str]:
    """The values that a Literal type lists, in the spelling of YAML; empty for other types."""
    if typing.get_origin(hint) is Literal:
        return [_YAML_WORDS.get(str(value), str(value)) for value in typing.get_args(hint)]
    return [literal for option in typing.get_args(hint) for literal in _literals(option)]


def listed(words: Sequence[str], most: int = 6, separator: str = ", ") -> str:
    """Words in messages; of more than ``most``, only how many others there are."""
    others = f" and {len(words) - most} more" if len(words) > most else ""
    return separator.join(words[:most]) + others


def shown(value: Any) -> str:
    """A value in messages: on one line, in the spelling of YAML, and shortened."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write a number of more than 4300 digits.
        text = "a number of too many digits"
    text = _YAML_WORDS.get(text, text)
    return text if len(text) <= 200 else f"{text[:120]}...{text[-20:]}"
