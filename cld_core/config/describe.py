"""Descriptions of recipe keys, for `cldctl explain`, `render --comments` and the documentation.

Also the difference between a recipe and the one that it extends.
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
    Assembly,
    file_layers,
    layers_with_profile,
    literal,
    load,
    to_yaml,
    to_yaml_line,
)
from .registry import SECTIONS, SELECTORS, default_specs, known, specs_of
from .schema import Recipe, leaves, walk

_COLUMN = 36  # where comments begin, if the line is not longer
_WIDTH = 120
_LONGEST = 80  # characters of a value


# The entries of a key, each with the variants of its section that have it; () in a section without
# variants.
Meanings = Mapping[Entry, tuple[str, ...]]


def sections() -> dict[str, str]:
    """The description of each section by its dotted name, in the order of the recipe.

    Each section is followed by its inner ones.
    """
    return {path: entry.doc for path, entry in known(default_specs()).items() if entry.is_section}


def keys() -> Mapping[str, Meanings]:
    """All keys of all variants, in the order of the recipe."""
    by_key: dict[str, dict[Entry, tuple[str, ...]]] = {}
    for path, entry in known(default_specs()).items():
        if (section := SECTIONS.get(path)) is not None:
            # The selector means the same in all variants.
            by_key[section.selector] = {section.entry: ()}
            for variant, choice in section.variants.items():
                for name, own in entries(choice.spec).items():
                    if name != section.key:
                        meanings = by_key.setdefault(f"{path}.{name}", {})
                        meanings[own] = (*meanings.get(own, ()), variant)
        elif not entry.is_section:
            by_key.setdefault(path, {entry: ()})
    return by_key


def keys_of(section: str, variant: str | None = None) -> dict[str, Meanings]:
    """The keys that are directly in a section, "" for the recipe itself.

    Args:
        variant: only the keys of this variant, with its meanings.
    """
    own = {key: meanings for key, meanings in keys().items() if key.rpartition(".")[0] == section}
    if variant is None:
        return own
    return {
        key: {entry: variants}
        for key, meanings in own.items()
        for entry, variants in meanings.items()
        if variant in variants
    }


def find(name: str) -> tuple[str, str]:
    """The section that a name is in, and the key or the variant that it names.

    The second result is "" for a section, the whole name for a key such as "sde.beta0", and "cld"
    for the variant "sde.cld".

    Raises:
        RecipeError: nothing has this name; names the nearest.
    """
    meanings = {key: (key.rpartition(".")[0], key) for key in keys()}
    meanings |= {path: (path, "") for path in sections()}
    for path, section in SECTIONS.items():
        for variant in section.variants:
            meanings.setdefault(f"{path}.{variant}", (path, variant))
    if name in meanings:
        return meanings[name]
    if (close := nearest(name, meanings)) is not None:
        raise RecipeError(f"a recipe has no key and no section '{name}'. Did you mean '{close}'?")
    raise RecipeError(
        f"a recipe has no key and no section '{name}'. `cldctl explain` lists the sections."
    )


def dump_with_comments(recipe: Recipe, only: Collection[str] | None = None) -> str:
    """The recipe as `dump` writes it, with a comment on each key and section.

    Args:
        only: the dotted keys to write; None: all.
    """
    all_entries = known(specs_of(recipe))
    lines: list[str] = []
    for path, value in walk(literal(recipe.to_dict())):
        section, _, name = path.rpartition(".")
        entry = all_entries[path]
        indent = "  " * path.count(".")
        if only is not None and not any(key == path or key.startswith(f"{path}.") for key in only):
            continue
        if entry.is_section:
            lines.append(_beside(f"{indent}{name}:", entry.doc))
            continue
        # A recipe of a few keys says what is chosen; `cldctl explain` lists the alternatives.
        comment = entry.doc
        if path in SELECTORS:
            docs = SECTIONS[section].docs
            comment = _choice(value, docs) if only is None else docs[value]
        elif only is None and entry.options not in ((), ("true", "false")):
            comment = f"{entry.doc} ({entry.expects})"
        if only is None:
            own = to_yaml({name: value}).rstrip("\n").split("\n")
        else:
            own = [f"{name}: {to_yaml_line(value)}"]
        own = [f"{indent}{line}" for line in own]
        beside = _beside(own[0], comment)
        # A comment cannot follow the first line of a list, or of a text with several lines.
        if len(own) == 1 and len(beside) <= _WIDTH:
            lines.append(beside)
        else:
            lines += [f"{indent}# {comment}", *own]
    return "\n".join(lines) + "\n"


def _choice(chosen: str, docs: Mapping[str, str]) -> str:
    """The comment on a selector: the chosen variant, those with the same spec, and the others."""
    alike = [name for name, doc in docs.items() if doc == docs[chosen]]
    others = [name for name in docs if name not in alike]
    comment = docs[chosen]
    if len(alike) > 1:
        comment += f" (one of {', '.join(alike)})"
    if others:
        comment += f"; others: {', '.join(others)}"
    return comment


def _beside(line: str, comment: str) -> str:
    return f"{line:<{_COLUMN}}  # {comment}"


def from_base(
    path: Path, overrides: Sequence[str] = (), profile: Path | None = None
) -> tuple[Path | None, dict[str, str]]:
    """The recipe at the end of the chain of `extends`, and the changes that `load` makes to it.

    The changes are texts by key: the value in YAML, the value of the base if it has the key, and
    the place that set it; keys of the command line come first. A file that extends nothing is its
    own base. If an ancestor is not a complete recipe, the next one is the base; None if none is.

    Raises:
        RecipeError: a file cannot be read, or a key or value is wrong.
    """
    layers = file_layers(path)
    assembly = Assembly(path)
    recipe = assembly.recipe(layers_with_profile(layers, profile), overrides)
    where = assembly.where
    for layer in layers:
        # An ancestor need not be a complete recipe; the next file is the base then.
        with suppress(RecipeError):
            base = layer.path or path
            before = leaves(load(base).to_dict())
            break
    else:
        return None, {}
    values = leaves(recipe.to_dict())
    changed = [key for key, value in values.items() if (key, value) not in before.items()]
    changed.sort(key=lambda key: where.get(key) != COMMAND_LINE)
    texts = {}
    for key in changed:
        if key != "name" or key in where:
            instead = f" instead of {_shown(before[key])}" if key in before else ""
            texts[key] = f"{_shown(values[key])}{instead}  ({where.get(key, 'default')})"
    return base, texts


def _shown(value: Any) -> str:
    return one_line(to_yaml_line(value), _LONGEST)
