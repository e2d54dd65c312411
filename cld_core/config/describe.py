"""What there is to say about each key of a recipe, for `cldctl explain` and the documentation; `render --comments`.

And how a recipe differs from the one that it builds on.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.errors import RecipeError, nearest
from cld_core.sanitize import one_line

from .keys import Entry, entries
from .loader import COMMAND_LINE, file_layers, literal, load, load_with_places, origin, to_yaml, to_yaml_line
from .registry import SECTIONS, SELECTORS, default_specs, known, specs_of
from .schema import Recipe, leaves, walk

_COLUMN = 36  # where comments begin, if the line is not longer
_WIDTH = 120
_LONGEST = 80  # characters of a value


# What a key means, with the variants of its section in which it does; none in a section without variants.
Meanings = Mapping[Entry, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a recipe (dotted; "" for the recipe itself).

    Attributes:
        keys: its dotted keys; in a section with variants, one may mean several things.
        selector: the dotted key that chooses the variant; None without variants.
        variants: what each is, by name.
    """

    name: str
    doc: str
    keys: Mapping[str, Meanings]
    selector: str | None
    variants: Mapping[str, str]

    def keys_of(self, variant: str) -> dict[str, Meanings]:
        """The keys of one variant, with what they mean in it."""
        return {
            key: {entry: variants}
            for key, meanings in self.keys.items()
            for entry, variants in meanings.items()
            if variant in variants
        }


def sections() -> dict[str, Section]:
    """All sections by name, in the order of the recipe; each is followed by those in it."""
    found = {"": Entry(Recipe, doc="a complete experiment"), **known(default_specs())}
    return {path: _section(path, entry.doc, found) for path, entry in found.items() if entry.is_section}


def _section(path: str, doc: str, found: Mapping[str, Entry]) -> Section:
    own = {key: entry for key, entry in found.items() if key.rpartition(".")[0] == path and not entry.is_section}
    if (section := SECTIONS.get(path)) is None:
        meanings = {key: {entry: ()} for key, entry in own.items()}
        return Section(name=path, doc=doc, keys=meanings, selector=None, variants={})
    # The selector means the same in all variants.
    keys: dict[str, dict[Entry, tuple[str, ...]]] = {section.selector: {own[section.selector]: ()}}
    for variant, choice in section.variants.items():
        for name, entry in entries(choice.spec).items():
            if name != section.key:
                of = keys.setdefault(f"{path}.{name}", {})
                of[entry] = (*of.get(entry, ()), variant)
    return Section(name=path, doc=doc, keys=keys, selector=section.selector, variants=section.docs)


def keys() -> dict[str, Meanings]:
    """All keys, with whichever variants, in the order of the recipe."""
    return {key: meanings for section in sections().values() for key, meanings in section.keys.items()}


def find(name: str) -> tuple[Section, str]:
    """What has a name: a section and "", a key of it, or one of its variants, as "sde.cld" ("cld").

    Raises:
        RecipeError: there is none of this name; names the nearest.
    """
    all_sections = sections()
    found = {key: (section, key) for section in all_sections.values() for key in section.keys}
    for path, section in all_sections.items():
        found |= {path: (section, "")} if path else {}
        for variant in section.variants:
            found.setdefault(f"{path}.{variant}", (section, variant))
    if name in found:
        return found[name]
    close = nearest(name, found)
    fix = "`cldctl explain` lists the sections." if close is None else f"Did you mean '{close}'?"
    raise RecipeError(f"a recipe has no key and no section '{name}'. {fix}")


def dump_with_comments(recipe: Recipe) -> str:
    """The recipe as `dump` writes it, with a comment on each key and section."""
    found, lines = known(specs_of(recipe)), list[str]()
    for path, value in walk(literal(recipe.to_dict())):
        section, _, name = path.rpartition(".")
        entry, indent = found[path], "  " * path.count(".")
        if entry.is_section:
            lines.append(_beside(f"{indent}{name}:", entry.doc))
            continue
        comment = f"{entry.doc} ({entry.expects})" if entry.options not in ((), ("true", "false")) else entry.doc
        if path in SELECTORS:
            comment = _choice(value, SECTIONS[section].docs)
        own = [f"{indent}{line}" for line in to_yaml({name: value}).rstrip("\n").split("\n")]
        beside = _beside(own[0], comment)
        # Nothing can be behind the first line of a list, or of a text that goes on.
        lines += [beside] if len(own) == 1 and len(beside) <= _WIDTH else [f"{indent}# {comment}", *own]
    return "\n".join(lines) + "\n"


def _choice(chosen: str, variants: Mapping[str, str]) -> str:
    """What the key that selects a variant is: its other values, apart from those that are of another kind."""
    alike = [name for name, doc in variants.items() if doc == variants[chosen]]
    others = [name for name in variants if name not in alike]
    same = f" (one of {', '.join(alike)})" if len(alike) > 1 else ""
    return f"{variants[chosen]}{same}" + (f"; others: {', '.join(others)}" if others else "")


def _beside(line: str, comment: str) -> str:
    return f"{line:<{_COLUMN}}  # {comment}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key, its value and that of the base as YAML (None: the base has no such key), and what set it."""

    key: str
    value: str
    before: str | None
    place: str


def from_base(
    path: Path, overrides: Sequence[str] = (), profile: Path | None = None
) -> tuple[Path | None, list[Difference]]:
    """The recipe at the end of the chain of `extends`, and how what `load` gives differs from it.

    What the command line sets comes first. A file that extends nothing is its own base. If an ancestor is no complete
    recipe by itself, the next one is the base; None if none is.

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
        return None, []
    found = [
        Difference(
            key=key,
            value=_shown(value),
            before=_shown(before[key]) if key in before else None,
            place=origin(key, where),
        )
        for key, value in leaves(recipe.to_dict()).items()
        if (key not in before or before[key] != value) and (key != "name" or key in where)
    ]
    # First what was typed just now, which is what somebody looks for.
    return base, sorted(found, key=lambda entry: entry.place != COMMAND_LINE)


def _shown(value: Any) -> str:
    return one_line(to_yaml_line(value), _LONGEST)
