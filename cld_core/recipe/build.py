"""Plain nested dictionaries -> `Recipe`, with errors that say which key, where it was written and what fits."""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from cld_core.errors import RecipeError, did_you_mean

from .image_spec import IMAGE_DATA, ImageDataSpec
from .ncsnpp_spec import NcsnppSpec
from .schema import TOY_DATA, CldSpec, MlpSpec, Recipe, ResnetSpec, ToyDataSpec, VpsdeSpec

# Sections whose keys depend on their `name`.
VARIANTS: dict[str, dict[str, type]] = {
    "data": {**dict.fromkeys(TOY_DATA, ToyDataSpec), **dict.fromkeys(IMAGE_DATA, ImageDataSpec)},
    "sde": {"cld": CldSpec, "vpsde": VpsdeSpec},
    "network": {"mlp": MlpSpec, "resnet": ResnetSpec, "ncsnpp": NcsnppSpec},
}
# Where an override of a command line stands, in messages.
COMMAND_LINE = "command line"
DEFAULT_VARIANT: dict[str, type] = {"data": ToyDataSpec, "sde": CldSpec, "network": MlpSpec}


# Evaluating annotations takes most of the time of checking a recipe, and every call of `Model.sample` checks one.
_hints = functools.cache(typing.get_type_hints)


def variant(section: str, name: str | None) -> type:
    """The dataclass that ``name`` chooses for a section of `VARIANTS`, or its default."""
    return VARIANTS[section].get(str(name), DEFAULT_VARIANT[section])


def section_class(path: str, tree: Mapping[str, Any]) -> type | None:
    """The dataclass behind the section ``path`` (dotted), given the keys known so far; None for a plain key."""
    cls: type = Recipe
    node: Any = tree
    for name in path.split(".") if path else []:
        node = node.get(name, {}) if isinstance(node, Mapping) else {}
        if cls is Recipe and name in VARIANTS:
            cls = variant(name, node.get("name") if isinstance(node, Mapping) else None)
            continue
        hint = _hints(cls).get(name)
        if not dataclasses.is_dataclass(hint):
            return None
        cls = typing.cast(type, hint)
    return cls


def known_keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key that may be set, given the variants that ``tree`` chooses."""
    cls = section_class(prefix, tree)
    assert cls is not None, f"{prefix} is not a section"
    for entry in dataclasses.fields(cls):
        path = f"{prefix}.{entry.name}" if prefix else entry.name
        if section_class(path, tree) is None:
            yield path
        else:
            yield from known_keys(tree, path)


def nearest(word: str, words: list[str]) -> str | None:
    """The closest of ``words``, comparing whole dotted keys and their last parts."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return close[0]
    tails = {entry.rsplit(".", 1)[-1]: entry for entry in words}
    close = difflib.get_close_matches(word.rsplit(".", 1)[-1], list(tails), n=1, cutoff=0.7)
    return tails[close[0]] if close else None


def describe(path: str, tree: Mapping[str, Any]) -> str:
    """What a key expects, for example "a whole number >= 1: optimiser steps in all"."""
    section, _, name = path.rpartition(".")
    cls = section_class(section, tree)
    assert cls is not None, f"{section} is not a section"
    entry = next(entry for entry in dataclasses.fields(cls) if entry.name == name)
    doc = entry.metadata.get("doc", "")
    return f"{_expectation(_hints(cls)[name], entry.metadata.get('bounds', {}))}: {doc}"


def check_keys(layer: Mapping[str, Any], tree: Mapping[str, Any], where: str) -> None:
    """Refuse a key of ``layer`` that no section has. ``tree`` is the layer merged over what it extends."""
    for path, value in _walk(layer):
        section, _, name = path.rpartition(".")
        cls = section_class(section, tree)
        names = [entry.name for entry in dataclasses.fields(cls)] if cls is not None else []
        if name not in names:
            keys = list(known_keys(tree))
            guess = nearest(path, keys)
            hint = f"Did you mean '{guess}' ({describe(guess, tree)})?" if guess else _list_keys(section, tree)
            chosen = tree.get(section, {}).get("name") if section in VARIANTS else None
            context = f" (with {section}.name={chosen})" if chosen else ""
            raise RecipeError(f"{where}: unknown key '{path}'{context}. {hint}")
        if section_class(path, tree) is not None and not isinstance(value, Mapping):
            raise RecipeError(f"{where}: '{path}' is a section, not a value. {_list_keys(path, tree)}")


def build(tree: Mapping[str, Any], where: Mapping[str, str]) -> Recipe:
    """The recipe that a checked, merged and resolved tree describes.

    Args:
        tree: nested keys.
        where: for each dotted key, the file or command line that set it.

    Raises:
        RecipeError: a value has the wrong type, is out of bounds, or does not go with another.
    """
    recipe: Recipe = _build("", tree, where)
    for key, other, problem in recipe.problems():
        raise RecipeError(f"{_origin_of_pair(key, other, where)}: '{key}' {problem}")
    return recipe


def _build(path: str, tree: Mapping[str, Any], where: Mapping[str, str]) -> Any:
    cls = section_class(path, tree)
    assert cls is not None, f"{path} is not a section"
    node: Any = tree
    for name in path.split(".") if path else []:
        node = node.get(name, {})
    hints = _hints(cls)
    values = {}
    for entry in dataclasses.fields(cls):
        key = f"{path}.{entry.name}" if path else entry.name
        if section_class(key, tree) is not None:
            values[entry.name] = _build(key, tree, where)
        elif entry.name in node:
            bounds = entry.metadata.get("bounds", {})
            values[entry.name] = _value(key, node[entry.name], hints[entry.name], bounds, tree, where)
    try:
        return cls(**values)
    except RecipeError as error:
        raise RecipeError(f"{_origin(path, where)}: {error}") from error


def _value(key: str, value: Any, hint: Any, bounds: dict[str, float], tree: Any, where: Any) -> Any:
    converted = _convert(value, hint)
    if converted is _WRONG or not _inside(converted, bounds):
        options = _literals(hint)
        if key.count(".") == 1 and key.endswith(".name") and key.split(".")[0] in VARIANTS:
            options = list(VARIANTS[key.split(".")[0]])
        hint_text = did_you_mean(str(value), map(str, options))
        expected = f"one of {', '.join(map(str, options))}" if options else describe(key, tree)
        shown = _YAML_WORDS.get(repr(value), repr(value))
        raise RecipeError(f"{_origin(key, where)}: '{key}' cannot be {shown}; expected {expected}.{hint_text}")
    return converted


_WRONG = object()
_YAML_WORDS = {"None": "null", "True": "true", "False": "false"}
_INSIDE = {
    "gt": lambda value, bound: value > bound,
    "ge": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "le": lambda value, bound: value <= bound,
}


def _inside(value: Any, bounds: dict[str, float]) -> bool:
    return value is None or all(_INSIDE[name](value, bound) for name, bound in bounds.items())


def _convert(value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint``, or `_WRONG`. Little is guessed: '3' is no number, 1 is no truth value."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        tries = [_convert(value, option) for option in typing.get_args(hint)]
        return next((converted for converted in tries if converted is not _WRONG), _WRONG)
    if hint is type(None):
        return None if value is None else _WRONG
    if origin is typing.Literal:
        return value if value in typing.get_args(hint) else _WRONG
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            return _WRONG
        items = tuple(_convert(item, inner) for item in value)
        return _WRONG if _WRONG in items else items
    if hint is bool:
        return value if isinstance(value, bool) else _WRONG
    if isinstance(value, bool):
        return _WRONG
    if hint is int:
        integral = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return int(value) if integral else _WRONG
    if hint is float:
        finite = isinstance(value, int | float) and value == value and abs(value) != float("inf")
        return float(value) if finite else _WRONG
    if hint is str:
        # Names that are numbers, as accounts are, need no quotes.
        return str(value) if isinstance(value, int) else value if isinstance(value, str) else _WRONG
    raise AssertionError(f"the schema uses a type that recipes do not know: {hint}")


def _literals(hint: Any) -> list[Any]:
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [literal for option in typing.get_args(hint) for literal in _literals(option)]


def _expectation(hint: Any, bounds: dict[str, float]) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    options = _literals(hint)
    optional = type(None) in typing.get_args(hint)
    base = next((option for option in typing.get_args(hint) if option is not type(None)), hint) if optional else hint
    if options:
        text = "one of " + ", ".join(map(str, options))
    elif typing.get_origin(base) is tuple:
        text = f"a list, each {names[typing.get_args(base)[0]]}"
    else:
        text = names.get(base, "a value")
    limits = " and ".join(f"{signs[name]} {bound:g}" for name, bound in bounds.items())
    return text + (f" {limits}" if limits else "") + (" or null" if optional else "")


def _list_keys(section: str, tree: Mapping[str, Any]) -> str:
    cls = section_class(section, tree)
    if cls is None:
        return f"'{section}' is a key, not a section."
    names = [entry.name for entry in dataclasses.fields(cls)]
    return f"Keys of {section or 'a recipe'}: {', '.join(names)}."


def _walk(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        yield path, value
        if isinstance(value, Mapping):
            yield from _walk(value, path)


def _origin_of_pair(key: str, other: str, where: Mapping[str, str]) -> str:
    """The place that set ``key``, after the one that set ``other`` where that alone was typed."""
    place, place_of_other = _origin(key, where), _origin(other, where)
    typed = place_of_other == COMMAND_LINE != place
    return f"{place_of_other}, and {place}" if typed else place


def _origin(key: str, where: Mapping[str, str]) -> str:
    """The place that set ``key``, or the nearest section above it that was set."""
    while key and key not in where:
        key = key.rpartition(".")[0]
    return where.get(key, where.get("", "recipe"))
