"""A key of a recipe: its default, its bounds, the values that its type takes, and what messages say about it."""

import functools
import math
import types
import typing
from collections.abc import Callable
from dataclasses import Field, field
from pathlib import Path
from typing import Any, Literal

from cld_core.errors import RecipeError
from cld_core.sanitize import is_control

WRONG = object()
# Whole numbers have 64 bits wherever they are used.
MAX_INT = 2**63 - 1
MAX_ITEMS = 1000
# The longest path that Linux accepts.
MAX_TEXT = 4096
# Evaluating annotations takes most of the time of checking a recipe, and every call of `Model.sample` checks one.
type_hints = functools.cache(typing.get_type_hints)

_YAML_WORDS = {"None": "null", "True": "true", "False": "false"}
_BOUNDS: dict[str, tuple[str, Callable[[Any, float], bool]]] = {
    "gt": (">", lambda value, bound: value > bound),
    "ge": (">=", lambda value, bound: value >= bound),
    "lt": ("<", lambda value, bound: value < bound),
    "le": ("<=", lambda value, bound: value <= bound),
}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def key(
    default: Any,
    doc: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    path: Literal["file", "code"] | None = None,
) -> Any:
    """A recipe key with its default, its one-line description and the bounds of its value.

    Args:
        path: the value is a path, which `Recipe.anchored` makes absolute. "code": a list of Python files, and of names
            of modules, which are left alone.
    """
    bounds = {name: bound for name, bound in (("gt", gt), ("ge", ge), ("lt", lt), ("le", le)) if bound is not None}
    return field(default=default, metadata={"doc": doc, "bounds": bounds, "path": path})


def is_due(step: int, every: int | None, first: int) -> bool:
    """Whether something that happens at multiples of ``every`` from the step ``first`` on happens at ``step``."""
    return every is not None and step >= first and step % every == 0


def anchor(entry: "Field[Any]", value: Any, folder: Path) -> Any:
    """The value of a key; if the key is a path, absolute, with a relative one taken from ``folder``.

    Raises:
        RecipeError: it begins with the home folder of nobody.
    """
    kind = entry.metadata.get("path")
    if kind is None or value is None:
        return value
    if kind == "code":
        return tuple(absolute(entry.name, one, folder) if one.endswith(".py") else one for one in value)
    return absolute(entry.name, value, folder)


def absolute(name: str, value: str, folder: Path) -> str:
    """A path, taken from ``folder`` if it is relative.

    Raises:
        RecipeError: it begins with the home folder of nobody.
    """
    try:
        return str(folder.absolute() / Path(value).expanduser())
    except RuntimeError as error:
        raise RecipeError(f"'{name}' cannot be {value!r}: there is no such home folder. Correct it.") from error


def convert(value: Any, hint: Any, keep: str = "") -> Any:
    """``value`` as the type ``hint``, or `WRONG`.

    Types are not mixed: '3' is not a number, and 1 is not true. Whole numbers may be written as 1e3.

    Args:
        keep: control characters that a text may have.
    """
    origin = typing.get_origin(hint)
    if hint is Any:
        return tuple(value) if isinstance(value, list) else value
    if origin in (typing.Union, types.UnionType):
        tries = [convert(value, option, keep) for option in typing.get_args(hint)]
        return next((converted for converted in tries if converted is not WRONG), WRONG)
    if hint is type(None):
        return None if value is None else WRONG
    if origin is typing.Literal:
        # 1 == True, but it is not one of auto, true and false.
        return next((it for it in typing.get_args(hint) if it == value and type(it) is type(value)), WRONG)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple) or len(value) > MAX_ITEMS:
            return WRONG
        # Lines of shell code may be several in one text.
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
        return str(value) if isinstance(value, int) else value if is_text(value, keep) else WRONG
    raise AssertionError(f"a spec uses a type that recipes do not support: {hint}")


def inside(value: Any, bounds: dict[str, float]) -> bool:
    """Whether a value, or each of a list, is within its bounds; null always is."""
    if isinstance(value, tuple):
        return all(inside(item, bounds) for item in value)
    return value is None or all(_BOUNDS[name][1](value, bound) for name, bound in bounds.items())


def is_text(value: Any, keep: str = "") -> bool:
    """Whether ``value`` is a text that can be stored and shown: of bounded length, without control characters."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return False
    return not any(is_control(character) for character in value if character not in keep)


def literals(hint: Any) -> list[str]:
    """The values that a Literal type lists, as YAML spells them; empty for other types."""
    if typing.get_origin(hint) is typing.Literal:
        return [_YAML_WORDS.get(str(value), str(value)) for value in typing.get_args(hint)]
    return [literal for option in typing.get_args(hint) for literal in literals(option)]


def expectation(hint: Any, bounds: dict[str, float]) -> str:
    """What a type and its bounds accept, in words."""
    options, arguments = literals(hint), typing.get_args(hint)
    optional = type(None) in arguments
    base = next((option for option in arguments if option is not type(None)), hint) if optional else hint
    if options:
        text = "one of " + ", ".join(options)
    elif typing.get_origin(base) is tuple:
        text = f"a list, each {_WORDS[typing.get_args(base)[0]]}"
    else:
        text = _WORDS.get(base, "a value")
    limits = " and ".join(f"{_BOUNDS[name][0]} {bound:g}" for name, bound in bounds.items())
    return text + (f" {limits}" if limits else "") + (" or null" if optional else "")


def shown(value: Any) -> str:
    """A value in messages: on one line, as YAML spells it, and shortened."""
    if isinstance(value, int) and abs(value) > MAX_INT:
        # Python refuses to write one of more than 4300 digits.
        digits = len(str(abs(value))) if value.bit_length() < 14_000 else int(value.bit_length() * math.log10(2)) + 1
        return f"a number of {digits} digits"
    try:
        text = repr(value)
    except ValueError:  # It has too many digits somewhere inside.
        text = f"a {type(value).__name__} with a very long number"
    text = _YAML_WORDS.get(text, text)
    return text if len(text) <= 200 else f"{text[:120]}...{text[-20:]}"
