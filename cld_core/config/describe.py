"""What there is to say about each key of a recipe, for `cldctl explain` and the documentation;
`render --comments`.

And how a recipe differs from the one that it builds on.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cld_core.errors import RecipeError, nearest
from cld_core.sanitize import one_line

from .keys import Entry, entries
from .loader import (
    COMMAND_LINE,
    file_layers,
    literal,
    load,
    load_with_places,
    to_yaml,
    to_yaml_line,
)
from .registry import SECTIONS, SELECTORS, default_specs, known, specs_of
from .schema import Recipe, leaves, walk

_COLUMN = 36  # where comments begin, if the line is not longer
_WIDTH = 120
_LONGEST = 80  # characters of a value


# What a key means, with the variants of its section in which it does; none in a section without
# variants.
Meanings = Mapping[Entry, tuple[str, ...]]


def sections() -> dict[str, str]:
    """What each section is by its dotted name, in the order of the recipe; each is followed by
    those in it."""
    return {path: entry.doc for path, entry in known(default_specs()).items() if entry.is_section}


def keys() -> Mapping[str, Meanings]:
    """All keys, with whichever variants, in the order of the recipe."""
    found: dict[str, dict[Entry, tuple[str, ...]]] = {}
    for path, entry in known(default_specs()).items():
        if (section := SECTIONS.get(path)) is not None:
            # The selector means the same in all variants.
            found[section.selector] = {section.entry: ()}
            for variant, choice in section.variants.items():
                for name, own in entries(choice.spec).items():
                    if name != section.key:
                        of = found.setdefault(f"{path}.{name}", {})
                        of[own] = (*of.get(own, ()), variant)
        elif not entry.is_section:
            found.setdefault(path, {entry: ()})
    return found


def keys_of(section: str, variant: str | None = None) -> dict[str, Meanings]:
    """The keys that are directly in a section, "" for the recipe itself; or those of a variant, as
    it means them."""
    own = {key: meanings for key, meanings in keys().items() if key.rpartition(".")[0] == section}
    if variant is None:
        return own
    return {
        key: {entry: it}
        for key, meanings in own.items()
        for entry, it in meanings.items()
        if variant in it
    }


def find(name: str) -> tuple[str, str]:
    """What has a name: a section and "", a section and a key of it, or one of its variants, as
    "sde.cld" ("cld").

    Raises:
        RecipeError: there is none of this name; names the nearest.
    """
    found = {key: (key.rpartition(".")[0], key) for key in keys()} | {
        path: (path, "") for path in sections()
    }
    for path, section in SECTIONS.items():
        for variant in section.variants:
            found.setdefault(f"{path}.{variant}", (path, variant))
    if name in found:
        return found[name]
    close = nearest(name, found)
    fix = "`cldctl explain` lists the sections." if close is None else f"Did you mean '{close}'?"
    raise RecipeError(f"a recipe has no key and no section '{name}'. {fix}")


def dump_with_comments(recipe: Recipe, only: Collection[str] | None = None) -> str:
    """The recipe as `dump` writes it, with a comment on each key and section.

    Args:
        only: the dotted keys to write; None: all.
    """
    found, lines = known(specs_of(recipe)), list[str]()
    for path, value in walk(literal(recipe.to_dict())):
        section, _, name = path.rpartition(".")
        entry, indent = found[path], "  " * path.count(".")
        if only is not None and not any(key == path or key.startswith(f"{path}.") for key in only):
            continue
        if entry.is_section:
            lines.append(_beside(f"{indent}{name}:", entry.doc))
            continue
        comment = (
            f"{entry.doc} ({entry.expects})"
            if entry.options not in ((), ("true", "false"))
            else entry.doc
        )
        if path in SELECTORS:
            comment = _choice(value, SECTIONS[section].docs)
        own = [f"{indent}{line}" for line in to_yaml({name: value}).rstrip("\n").split("\n")]
        if only is not None:
            # Whoever writes few keys shows what is chosen, and leaves what else there is to `cldctl
            # explain`.
            comment = SECTIONS[section].docs[value] if path in SELECTORS else entry.doc
            own = [f"{indent}{name}: {to_yaml_line(value)}"]
        beside = _beside(own[0], comment)
        # Nothing can be behind the first line of a list, or of a text that goes on.
        lines += (
            [beside] if len(own) == 1 and len(beside) <= _WIDTH else [f"{indent}# {comment}", *own]
        )
    return "\n".join(lines) + "\n"


def _choice(chosen: str, variants: Mapping[str, str]) -> str:
    """What the key that selects a variant is: its other values, apart from those that are of
    another kind."""
    alike = [name for name, doc in variants.items() if doc == variants[chosen]]
    others = [name for name in variants if name not in alike]
    same = f" (one of {', '.join(alike)})" if len(alike) > 1 else ""
    return f"{variants[chosen]}{same}" + (f"; others: {', '.join(others)}" if others else "")


def _beside(line: str, comment: str) -> str:
    return f"{line:<{_COLUMN}}  # {comment}"


def from_base(
    path: Path, overrides: Sequence[str] = (), profile: Path | None = None
) -> tuple[Path | None, dict[str, str]]:
    """The recipe at the end of the chain of `extends`, and how what `load` gives differs from it.

    That is, by key, the value in YAML, that of the base if it has the key, and what set it. What
    the command line sets comes first. A file that extends nothing is its own base. If an ancestor
    is no complete recipe by itself, the next one is the base; None if none is.

    Raises:
        RecipeError: as `load`.
    """
    recipe, where = load_with_places(path, overrides, profile)
    for layer in file_layers(path):
        with suppress(RecipeError):
            base = layer.path or path
            before = leaves(load(base).to_dict())
            break
    else:
        return None, {}
    values, found = leaves(recipe.to_dict()), {}
    changed = [key for key, value in values.items() if (key, value) not in before.items()]
    # First what was typed just now, which is what somebody looks for.
    for key in sorted(changed, key=lambda key: where.get(key) != COMMAND_LINE):
        if key != "name" or key in where:
            instead = f" instead of {_shown(before[key])}" if key in before else ""
            found[key] = f"{_shown(values[key])}{instead}  ({where.get(key, 'default')})"
    return base, found


def _shown(value: Any) -> str:
    return one_line(to_yaml_line(value), _LONGEST)
