"""Which keys a recipe may have, given the variants that it chooses, and what messages say about others.

`specs` has the spec of each section with variants, as `registry.default_specs` makes them.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from cld_core.errors import RecipeError, nearest

from .keys import expectation, type_hints
from .registry import SECTIONS, keys_of, names
from .schema import Recipe, leaves

Specs = Mapping[str, type]

_REPLACED = {"data.plugin": "plugins", "eval.fid.plugin": "plugins"}


def section_class(path: str, specs: Specs) -> type | None:
    """The dataclass behind the section ``path`` (dotted); None for a plain key."""
    cls: type = Recipe
    for name in path.split(".") if path else []:
        hint = specs[name] if cls is Recipe and name in specs else type_hints(cls).get(name)
        if not dataclasses.is_dataclass(hint):
            return None
        cls = typing.cast(type, hint)
    return cls


def known_keys(specs: Specs, prefix: str = "") -> Iterator[str]:
    """Every dotted key that may be set."""
    for name in _names(prefix, specs):
        path = f"{prefix}.{name}" if prefix else name
        if section_class(path, specs) is None:
            yield path
        else:
            yield from known_keys(specs, path)


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


def describe(path: str, specs: Specs) -> str:
    """What a key expects, for example "a whole number >= 1: total number of optimiser steps"."""
    section, _, name = path.rpartition(".")
    if options := options_of(path):
        return f"one of {', '.join(options)}: selects the other keys of the section"
    cls = section_class(section, specs)
    assert cls is not None, f"{section} is not a section"
    entry = next(entry for entry in dataclasses.fields(cls) if entry.name == name)
    return f"{expectation(type_hints(cls)[name], entry.metadata['bounds'])}: {entry.metadata['doc']}"


def require_known(path: str, value: Any, specs: Specs, where: Mapping[str, str]) -> None:
    """Refuse a key that no section has, or the value of a section that is not a mapping.

    Args:
        where: for each dotted key, the file or command line that sets it.

    Raises:
        RecipeError: names the key, its place, and the nearest key or the variant that has it.
    """
    section, _, name = path.rpartition(".")
    if path in _REPLACED:
        fix = "at the top of the recipe (on the command line: plugins=FILE.py)"
        raise RecipeError(f"{where[path]}: '{path}' has become '{_REPLACED[path]}'. Write `plugins: [FILE.py]` {fix}.")
    if section_class(section, specs) is None or name not in _names(section, specs):
        # The keys in a section that does not exist tell which section is meant.
        inner = [f"{path}.{key}" for key in leaves(value)] if isinstance(value, Mapping) else []
        raise RecipeError(f"{where[path]}: {_unknown(next(iter(inner), path), specs)}")
    if section_class(path, specs) is not None and not isinstance(value, Mapping):
        raise RecipeError(f"{where[path]}: '{path}' is a section, not a value. {_list_keys(path, specs)}")


def _names(section: str, specs: Specs) -> list[str]:
    cls = section_class(section, specs)
    return [] if cls is None else [entry.name for entry in dataclasses.fields(cls)]


def _unknown(path: str, specs: Specs) -> str:
    section, _, name = path.rpartition(".")
    if section not in SECTIONS:
        return f"unknown key '{path}'. {_suggestion(path, specs)}"
    spec: Any = specs[section]
    selector = SECTIONS[section].selector
    context = f"{section}.{selector}={getattr(spec, selector, names(section)[0])}"
    if SECTIONS[section].having(name):
        fix = f"Set {_which(section, name)}, or leave it out."
        return f"'{path}' is not a key of {context}. {fix} {_list_keys(section, specs)}"
    return f"unknown key '{path}' (with {context}). {_suggestion(path, specs)}"


def _suggestion(path: str, specs: Specs) -> str:
    section = path.rpartition(".")[0]
    known = list(known_keys(specs))
    guess = nearest(path, [*known, *(all_keys(section) if section in SECTIONS else ())])
    if guess is None:
        return _list_keys(section, specs)
    about = describe(guess, specs) if guess in known else f"with {_which(*guess.split('.'))}"
    return f"Did you mean '{guess}' ({about})?"


def _which(section: str, key: str) -> str:
    """The choices of a variant that has a key, such as "sampling.method=exponential"."""
    *others, last = SECTIONS[section].having(key)
    return f"{section}.{SECTIONS[section].selector}={', '.join(others)}{' or ' if others else ''}{last}"


def _list_keys(section: str, specs: Specs) -> str:
    if section_class(section, specs) is None:
        if section in known_keys(specs):
            return f"'{section}' is a key, not a section."
        return _list_keys(section.rpartition(".")[0], specs)
    return f"Keys of {section or 'a recipe'}: {', '.join(_names(section, specs))}."
