"""Plain nested dictionaries -> `Recipe`, with errors that name the key, its place and what is accepted."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cld_core.errors import RecipeError, did_you_mean

from .checks import problems
from .schema import Recipe
from .tree import describe, options_of, origin, section_class, type_hints
from .values import WRONG, convert, inside, is_text, literals, shown

# The place of an override, in messages.
COMMAND_LINE = "command line"


def build(tree: Mapping[str, Any], where: Mapping[str, str]) -> Recipe:
    """The recipe that a checked, merged and resolved tree describes.

    Args:
        tree: nested keys.
        where: for each dotted key, the file or command line that set it.

    Raises:
        RecipeError: a value has the wrong type, is out of bounds, or does not go with another.
    """
    recipe: Recipe = _build("", tree, tree, where)
    for key, other, problem in problems(recipe):
        raise RecipeError(f"{_origin_of_pair(key, other, where)}: '{key}' {problem}")
    return recipe


def _build(path: str, node: Mapping[str, Any], tree: Mapping[str, Any], where: Mapping[str, str]) -> Any:
    cls = section_class(path, tree)
    assert cls is not None, f"{path} is not a section"
    values = {}
    for entry in dataclasses.fields(cls):
        key = f"{path}.{entry.name}" if path else entry.name
        if section_class(key, tree) is not None:
            values[entry.name] = _build(key, node.get(entry.name, {}), tree, where)
        elif entry.name in node:
            bounds = entry.metadata["bounds"]
            values[entry.name] = _value(key, node[entry.name], type_hints(cls)[entry.name], bounds, tree, where)
    try:
        return cls(**values)
    except RecipeError as error:
        raise RecipeError(f"{origin(path, where)}: {error}") from error


def _value(key: str, value: Any, hint: Any, bounds: dict[str, float], tree: Any, where: Any) -> Any:
    converted = convert(value, hint)
    if converted is WRONG or not inside(converted, bounds):
        options = options_of(key) or literals(hint)
        guess = did_you_mean(value, options) if isinstance(value, str) and len(value) < 100 else ""
        expected = f"one of {', '.join(options)}" if options else describe(key, tree)
        if isinstance(value, str) and not options and not is_text(value):
            guess = " Leave out control characters, and shorten it."
        raise RecipeError(f"{origin(key, where)}: '{key}' cannot be {shown(value)}; expected {expected}.{guess}")
    return converted


def _origin_of_pair(key: str, other: str, where: Mapping[str, str]) -> str:
    """The place that set ``key``; if only ``other`` was typed, the command line comes first."""
    place, place_of_other = origin(key, where), origin(other, where)
    typed = place_of_other == COMMAND_LINE != place
    return f"{place_of_other}, and {place}" if typed else place
