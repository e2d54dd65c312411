"""The values of keys: what a type accepts, and how messages describe it."""

import math
import types
import typing
from typing import Any

from cld_core.sanitize import is_control

WRONG = object()
# Whole numbers have 64 bits wherever they are used.
MAX_INT = 2**63 - 1
MAX_ITEMS = 1000
# The longest path that Linux accepts.
MAX_TEXT = 4096
YAML_WORDS = {"None": "null", "True": "true", "False": "false"}
_INSIDE = {
    "gt": lambda value, bound: value > bound,
    "ge": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "le": lambda value, bound: value <= bound,
}


def inside(value: Any, bounds: dict[str, float]) -> bool:
    """Whether a value, or each of a list, is within its bounds; null always is."""
    if isinstance(value, tuple):
        return all(inside(item, bounds) for item in value)
    return value is None or all(_INSIDE[name](value, bound) for name, bound in bounds.items())


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
    text = YAML_WORDS.get(text, text)
    return text if len(text) <= 200 else f"{text[:120]}...{text[-20:]}"


def is_text(value: Any, keep: str = "") -> bool:
    """Whether ``value`` is a text that can be stored and shown: of bounded length, without control characters."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return False
    return not any(is_control(character) for character in value if character not in keep)


def convert(value: Any, hint: Any, keep: str = "") -> Any:
    """``value`` as the type ``hint``, or `WRONG`.

    Types are not mixed: '3' is not a number, and 1 is not true.

    Args:
        keep: control characters that a text may have.
    """
    origin = typing.get_origin(hint)
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
        finite = isinstance(value, int | float) and value == value and abs(value) != float("inf")
        return float(value) if finite else WRONG
    if hint is str:
        # Names that are numbers, such as accounts, need no quotes.
        return str(value) if isinstance(value, int) else value if is_text(value, keep) else WRONG
    raise AssertionError(f"a spec uses a type that recipes do not support: {hint}")


def literals(hint: Any) -> list[str]:
    """The values that a Literal type lists, as YAML spells them; empty for other types."""
    if typing.get_origin(hint) is typing.Literal:
        return [YAML_WORDS.get(str(value), str(value)) for value in typing.get_args(hint)]
    return [literal for option in typing.get_args(hint) for literal in literals(option)]


def expectation(hint: Any, bounds: dict[str, float]) -> str:
    """What a type and its bounds accept, in words."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    options = literals(hint)
    optional = type(None) in typing.get_args(hint)
    base = next((option for option in typing.get_args(hint) if option is not type(None)), hint) if optional else hint
    if options:
        text = "one of " + ", ".join(options)
    elif typing.get_origin(base) is tuple:
        text = f"a list, each {names[typing.get_args(base)[0]]}"
    else:
        text = names.get(base, "a value")
    limits = " and ".join(f"{signs[name]} {bound:g}" for name, bound in bounds.items())
    return text + (f" {limits}" if limits else "") + (" or null" if optional else "")
