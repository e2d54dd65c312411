"""What there is to say about each key of a recipe: for `cldctl explain`, `render --comments` and the documentation."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cld_core.errors import RecipeError, nearest

from .reading import to_yaml_line
from .schema import Recipe
from .tree import options_of, section_class, type_hints
from .values import expectation, literals
from .variants import SECTIONS


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a key is in some variants of its section.

    Attributes:
        variants: their names; empty in a section without variants.
        expects: the values that it takes, in words, with its bounds.
        default: as YAML.
        options: all values, if they can be listed.
    """

    variants: tuple[str, ...] = ()
    doc: str
    expects: str
    default: str
    options: tuple[str, ...] = ()


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
        selector: the key that chooses the variant; None without variants.
        variants: what each is, by name.
    """

    name: str
    doc: str
    keys: tuple[Key, ...]
    sections: tuple[str, ...] = ()
    selector: str | None = None
    variants: Mapping[str, str] = dataclasses.field(default_factory=dict)

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
    return {section.name: section for section in _walk("", Recipe, "a complete experiment")}


def keys() -> dict[str, Key]:
    """All keys by name, with whichever variants, in the order of the recipe."""
    return {key.name: key for section in sections().values() for key in section.keys}


def find(name: str) -> Key | Section | tuple[Section, str]:
    """A key, a section, or a section with the name of one of its variants, as "sde.cld".

    Raises:
        RecipeError: there is none of this name; names the nearest.
    """
    known, all_sections = keys(), sections()
    if name in known:
        return known[name]
    if name and name in all_sections:
        return all_sections[name]
    pairs = ((section, variant) for section in all_sections.values() for variant in section.variants)
    by_variant = {f"{section.name}.{variant}": (section, variant) for section, variant in pairs}
    if name in by_variant:
        return by_variant[name]
    close = nearest(name, [*known, *filter(None, all_sections), *by_variant])
    fix = "`cldctl explain` lists the sections." if close is None else f"Did you mean '{close}'?"
    raise RecipeError(f"a recipe has no key and no section '{name}'. {fix}")


def of(path: str, tree: Mapping[str, Any]) -> Meaning:
    """What a key means, given the variants that ``tree`` chooses.

    Raises:
        KeyError: these have no such key.
    """
    section, _, name = path.rpartition(".")
    cls = section_class(section, tree)
    entries = {} if cls is None else {entry.name: entry for entry in dataclasses.fields(cls)}
    if cls is None or section_class(path, tree) is not None:
        raise KeyError(path)
    return _meaning(path, cls, entries[name], ())


def _walk(path: str, cls: type, doc: str) -> Iterator[Section]:
    top = path.partition(".")[0]
    if path and path == top and top in SECTIONS:
        yield _with_variants(path, doc)
        return
    own, inner = [], []
    for entry in dataclasses.fields(cls):
        name = f"{path}.{entry.name}" if path else entry.name
        nested = section_class(name, {})
        if nested is None:
            own.append(Key(name=name, meanings=(_meaning(name, cls, entry, ()),)))
        else:
            inner.append((name, nested, entry.metadata.get("doc", "")))
    yield Section(name=path, doc=doc, keys=tuple(own), sections=tuple(name for name, _, _ in inner))
    for name, nested, text in inner:
        yield from _walk(name, nested, text)


def _with_variants(path: str, doc: str) -> Section:
    section = SECTIONS[path]
    found: dict[str, list[Meaning]] = {}
    for variant, choice in section.variants.items():
        for entry in dataclasses.fields(choice.spec):
            if entry.name != section.selector:
                _add(found.setdefault(entry.name, []), _meaning(f"{path}.{entry.name}", choice.spec, entry, (variant,)))
    about = {variant: _doc_of(choice.spec, section.selector) for variant, choice in section.variants.items()}
    first = next(iter(section.variants))
    selector = Meaning(
        doc="selects the other keys of the section",
        expects=f"one of {', '.join(about)}",
        default=first,
        options=tuple(about),
    )
    keys = [Key(name=f"{path}.{section.selector}", meanings=(selector,))]
    keys += [Key(name=f"{path}.{name}", meanings=tuple(meanings)) for name, meanings in found.items()]
    return Section(name=path, doc=doc, keys=tuple(keys), selector=section.selector, variants=about)


def _add(meanings: list[Meaning], new: Meaning) -> None:
    """Add what a key means in a variant; if it means the same in another one, that gets the name of the variant."""
    for index, known in enumerate(meanings):
        if dataclasses.replace(known, variants=()) == dataclasses.replace(new, variants=()):
            meanings[index] = dataclasses.replace(known, variants=(*known.variants, *new.variants))
            return
    meanings.append(new)


def _meaning(path: str, cls: type, entry: "dataclasses.Field[Any]", variants: tuple[str, ...]) -> Meaning:
    hint = type_hints(cls)[entry.name]
    options = options_of(path) or tuple(literals(hint)) or (("true", "false") if hint is bool else ())
    expects = f"one of {', '.join(options)}" if options_of(path) else expectation(hint, entry.metadata["bounds"])
    default = entry.default if entry.default is not dataclasses.MISSING else None
    shown = to_yaml_line(default)
    return Meaning(variants=variants, doc=entry.metadata["doc"], expects=expects, default=shown, options=options)


def _doc_of(spec: type, selector: str) -> str:
    entry = next(entry for entry in dataclasses.fields(spec) if entry.name == selector)
    doc: str = entry.metadata.get("doc", "")
    return doc
