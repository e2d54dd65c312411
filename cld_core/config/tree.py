"""Which keys a tree of nested dictionaries may have, given the variants that it chooses."""

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from cld_core.errors import RecipeError, nearest

from .schema import Recipe
from .values import expectation
from .variants import SECTIONS, keys_of, names

# Evaluating annotations takes most of the time of checking a recipe, and every call of `Model.sample` checks one.
type_hints = functools.cache(typing.get_type_hints)


def section_class(path: str, tree: Mapping[str, Any]) -> type | None:
    """The dataclass behind the section ``path`` (dotted), given the keys known so far; None for a plain key."""
    cls: type = Recipe
    node: Any = tree
    for name in path.split(".") if path else []:
        node = node.get(name, {}) if isinstance(node, Mapping) else {}
        if cls is Recipe and name in SECTIONS:
            cls = SECTIONS[name].chosen(node).spec
            continue
        hint = type_hints(cls).get(name)
        if not dataclasses.is_dataclass(hint):
            return None
        cls = typing.cast(type, hint)
    return cls


def known_keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key that may be set, given the variants that ``tree`` chooses."""
    for entry in dataclasses.fields(_existing(prefix, tree)):
        path = f"{prefix}.{entry.name}" if prefix else entry.name
        if section_class(path, tree) is None:
            yield path
        else:
            yield from known_keys(tree, path)


def all_keys(section: str) -> list[str]:
    """Every dotted key that a section may have, with whichever of its variants."""
    if section not in SECTIONS:
        return list(known_keys({}, section))
    keys = [f"{section}.{key}" for variant in SECTIONS[section].variants.values() for key in keys_of(variant.spec)]
    return list(dict.fromkeys(keys))


def options_of(path: str) -> tuple[str, ...]:
    """The names of the variants among which the key ``path`` selects; empty if it is not a selector."""
    section, _, name = path.rpartition(".")
    return names(section) if section in SECTIONS and name == SECTIONS[section].selector else ()


def describe(path: str, tree: Mapping[str, Any]) -> str:
    """What a key expects, for example "a whole number >= 1: total number of optimiser steps"."""
    section, _, name = path.rpartition(".")
    options = options_of(path)
    if options:
        return f"one of {', '.join(options)}: selects the other keys of the section"
    cls = _existing(section, tree)
    entry = next(entry for entry in dataclasses.fields(cls) if entry.name == name)
    return f"{expectation(type_hints(cls)[name], entry.metadata['bounds'])}: {entry.metadata['doc']}"


def check_keys(layer: Mapping[str, Any], tree: Mapping[str, Any], where: Mapping[str, str]) -> None:
    """Refuse a key of ``layer`` that no section has.

    Args:
        tree: the layer merged over what it extends.
        where: for each dotted key of the layer, the file or command line that sets it.

    Raises:
        RecipeError: names the key, its place, and the nearest key or the variant that has it.
    """
    for path, value in walk(layer):
        section, _, name = path.rpartition(".")
        cls = section_class(section, tree)
        if cls is None or name not in (entry.name for entry in dataclasses.fields(cls)):
            # The keys in a section that does not exist tell which section is meant.
            inner = [f"{path}.{key}" for key in leaves(value)] if isinstance(value, Mapping) else []
            raise RecipeError(f"{where[path]}: {_unknown(next(iter(inner), path), tree)}")
        if section_class(path, tree) is not None and not isinstance(value, Mapping):
            raise RecipeError(f"{where[path]}: '{path}' is a section, not a value. {_list_keys(path, tree)}")


def _unknown(path: str, tree: Mapping[str, Any]) -> str:
    section, _, name = path.rpartition(".")
    if section not in SECTIONS:
        return f"unknown key '{path}'. {_suggestion(path, tree)}"
    selector, node = SECTIONS[section].selector, tree.get(section)
    chosen = node.get(selector) if isinstance(node, Mapping) else None
    context = (
        f"{section}.{selector}={chosen if isinstance(chosen, str) and chosen.isprintable() else names(section)[0]}"
    )
    if SECTIONS[section].having(name):
        fix = f"Set {_which(section, name)}, or leave it out."
        return f"'{path}' is not a key of {context}. {fix} {_list_keys(section, tree)}"
    return f"unknown key '{path}' (with {context}). {_suggestion(path, tree)}"


def _suggestion(path: str, tree: Mapping[str, Any]) -> str:
    section = path.rpartition(".")[0]
    known = list(known_keys(tree))
    guess = nearest(path, [*known, *(all_keys(section) if section in SECTIONS else ())])
    if guess is None:
        return _list_keys(section, tree)
    about = describe(guess, tree) if guess in known else f"with {_which(*guess.split('.'))}"
    return f"Did you mean '{guess}' ({about})?"


def _which(section: str, key: str) -> str:
    """The choices of a variant that has a key, such as "sampling.method=exponential"."""
    *others, last = SECTIONS[section].having(key)
    return f"{section}.{SECTIONS[section].selector}={', '.join(others)}{' or ' if others else ''}{last}"


def _list_keys(section: str, tree: Mapping[str, Any]) -> str:
    cls = section_class(section, tree)
    if cls is None and section in known_keys(tree):
        return f"'{section}' is a key, not a section."
    if cls is None:
        return _list_keys(section.rpartition(".")[0], tree)
    return f"Keys of {section or 'a recipe'}: {', '.join(entry.name for entry in dataclasses.fields(cls))}."


def _existing(section: str, tree: Mapping[str, Any]) -> type:
    cls = section_class(section, tree)
    assert cls is not None, f"{section} is not a section"
    return cls


def origin(key: str, where: Mapping[str, str]) -> str:
    """The place that set ``key``, or the nearest section above it that was set."""
    while key and key not in where:
        key = key.rpartition(".")[0]
    return where.get(key, where.get("", "recipe"))


def walk(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of nested dictionaries, sections included, with its value."""
    for name, value in node.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        yield path, value
        if isinstance(value, Mapping):
            yield from walk(value, path)


def leaves(node: Mapping[str, Any]) -> dict[str, Any]:
    """The values of nested dictionaries by dotted key, without the sections."""
    return {path: value for path, value in walk(node) if not isinstance(value, Mapping)}
