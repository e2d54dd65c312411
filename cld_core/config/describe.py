"""What there is to say about each key of a recipe, for `cldctl explain` and the documentation; `render --comments`.

And how a recipe differs from the one that it builds on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Meaning(Entry):
    """What a key is in some variants of its section.

    Attributes:
        variants: their names; empty in a section without variants.
    """

    variants: tuple[str, ...] = ()

    @property
    def default(self) -> str:
        """As YAML."""
        return to_yaml_line(self.usual)


@dataclass(frozen=True, kw_only=True)
class Key:
    """A dotted key, and what it means; in a section with variants, it may mean several things."""

    name: str
    meanings: tuple[Meaning, ...]

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def options(self) -> tuple[str, ...]:
        """All values that some variant takes, if they can be listed."""
        return tuple(dict.fromkeys(option for meaning in self.meanings for option in meaning.options))


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a recipe (dotted; "" for the recipe itself), its keys, and the sections in it.

    Attributes:
        selector: the dotted key that chooses the variant; None without variants.
        variants: what each is, by name.
    """

    name: str
    doc: str
    keys: tuple[Key, ...]
    sections: tuple[str, ...] = ()
    selector: str | None = None
    variants: Mapping[str, str] = field(default_factory=dict)

    def keys_of(self, variant: str) -> tuple[Key, ...]:
        """The keys of one variant, with what they mean in it."""
        return tuple(
            Key(name=key.name, meanings=(meaning,))
            for key in self.keys
            for meaning in key.meanings
            if variant in meaning.variants
        )


def sections() -> dict[str, Section]:
    """All sections by name, in the order of the recipe; each is followed by those in it."""
    found = {"": Entry(Recipe, doc="a complete experiment"), **known(default_specs())}
    return {path: _section(path, entry.doc, found) for path, entry in found.items() if entry.is_section}


def _section(path: str, doc: str, found: Mapping[str, Entry]) -> Section:
    inner = {name: entry for name, entry in found.items() if name and name.rpartition(".")[0] == path}
    section = SECTIONS.get(path)
    selector, variants = (section.selector, section.variants) if section is not None else (None, {})
    # What each key means, and the variants in which it does; the selector means the same in all.
    meanings: dict[str, dict[Entry, list[str]]] = {
        name: {entry: []} for name, entry in inner.items() if not entry.is_section and selector in (None, name)
    }
    for variant, choice in variants.items():
        for name, entry in entries(choice.spec).items():
            if (key := f"{path}.{name}") != selector:
                meanings.setdefault(key, {}).setdefault(entry, []).append(variant)
    return Section(
        name=path,
        doc=doc,
        keys=tuple(
            Key(name=key, meanings=tuple(Meaning(**vars(entry), variants=tuple(of)) for entry, of in each.items()))
            for key, each in meanings.items()
        ),
        sections=tuple(name for name, entry in inner.items() if entry.is_section),
        selector=selector,
        variants={} if section is None else section.docs,
    )


def keys() -> dict[str, Key]:
    """All keys by name, with whichever variants, in the order of the recipe."""
    return {key.name: key for section in sections().values() for key in section.keys}


def find(name: str) -> Key | Section | tuple[Section, str]:
    """A key, a section, or a section with the name of one of its variants, as "sde.cld".

    Raises:
        RecipeError: there is none of this name; names the nearest.
    """
    found: dict[str, Key | Section | tuple[Section, str]] = {**keys()}
    for path, section in sections().items():
        found |= {path: section} if path else {}
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
    base, before = _base(path)
    if base is None or before is None:
        return None, []
    now, then = leaves(recipe.to_dict()), leaves(before.to_dict())
    changed = [key for key, value in now.items() if key not in then or then[key] != value]
    found = [
        Difference(
            key=key,
            value=_shown(now[key]),
            before=_shown(then[key]) if key in then else None,
            place=origin(key, where),
        )
        for key in changed
        if key != "name" or key in where
    ]
    # First what was typed just now, which is what somebody looks for.
    return base, sorted(found, key=lambda entry: entry.place != COMMAND_LINE)


def _base(path: Path) -> tuple[Path | None, Recipe | None]:
    for layer in file_layers(path):
        try:
            if layer.path is not None:
                return layer.path, load(layer.path)
        except RecipeError:
            continue
    return None, None


def _shown(value: Any) -> str:
    return one_line(to_yaml_line(value), _LONGEST)
