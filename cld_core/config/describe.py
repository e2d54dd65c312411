"""What there is to say about each key of a recipe, for `cldctl explain` and the documentation; `render --comments`.

And how a recipe differs from the one that it builds on.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.errors import RecipeError, nearest
from cld_core.sanitize import one_line

from .keys import expectation, literals, type_hints
from .loader import COMMAND_LINE, file_layers, literal, load, load_with_places, origin, printed, to_yaml, to_yaml_line
from .registry import SECTIONS, default_specs, specs_of
from .schema import Recipe, leaves
from .sections import Specs, options_of, section_class

_COLUMN = 36  # where comments begin, if the line is not longer
_WIDTH = 120
_LONGEST = 80  # characters of a value


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


def of(path: str, specs: Specs) -> Meaning:
    """What a key means, given the specs of the sections with variants.

    Raises:
        KeyError: these have no such key.
    """
    section, _, name = path.rpartition(".")
    cls = section_class(section, specs)
    entries = {} if cls is None else {entry.name: entry for entry in dataclasses.fields(cls)}
    if cls is None or section_class(path, specs) is not None:
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
        nested = section_class(name, default_specs())
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


def dump_with_comments(recipe: Recipe) -> str:
    """The recipe as `dump` writes it, with a comment on each key and section."""
    return "\n".join(_lines(literal(recipe.to_dict()), "", specs_of(recipe), sections())) + "\n"


def _lines(node: Mapping[str, Any], path: str, specs: Specs, known: Mapping[str, Section]) -> Iterator[str]:
    indent = "  " * (path.count(".") + 1 if path else 0)
    for name, value in node.items():
        key = f"{path}.{name}" if path else name
        if isinstance(value, Mapping):
            yield _beside(f"{indent}{name}:", known[key].doc)
            yield from _lines(value, key, specs, known)
            continue
        comment = _comment(of(key, specs))
        if path and known[path].selector == name:
            comment = _choice(of(key, specs), known[path].variants)
        lines = [f"{indent}{line}" for line in to_yaml({name: value}).rstrip("\n").split("\n")]
        beside = _beside(lines[0], comment)
        if len(lines) == 1 and len(beside) <= _WIDTH:
            yield beside
        else:
            # Nothing can be behind the first line of a list, or of a text that goes on.
            yield f"{indent}# {comment}"
            yield from lines


def _comment(meaning: Meaning) -> str:
    is_choice = meaning.options not in ((), ("true", "false"))
    return f"{meaning.doc} ({meaning.expects})" if is_choice else meaning.doc


def _choice(meaning: Meaning, variants: Mapping[str, str]) -> str:
    """What the key that selects a variant is: its other values, apart from those that are of another kind."""
    alike = [name for name, doc in variants.items() if doc == meaning.doc]
    others = [name for name, doc in variants.items() if doc != meaning.doc]
    same = f" (one of {', '.join(alike)})" if len(alike) > 1 else ""
    return f"{meaning.doc}{same}" + (f"; others: {', '.join(others)}" if others else "")


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
    names = {printed(profile): "profile "} if profile is not None else {}
    found = differences(recipe, before, where)
    shown = [_of_profile(entry, names) for entry in found if entry.key != "name" or entry.place == where.get("name")]
    # First what was typed just now, which is what somebody looks for.
    return base, sorted(shown, key=lambda entry: entry.place != COMMAND_LINE)


def differences(recipe: Recipe, before: Recipe, where: Mapping[str, str]) -> list[Difference]:
    """The keys of ``recipe`` whose values are not those of ``before``, in the recipe's order."""
    now, then = leaves(recipe.to_dict()), leaves(before.to_dict())
    changed = [key for key, value in now.items() if key not in then or then[key] != value]
    old = {key: _shown(then[key]) for key in changed if key in then}
    return [
        Difference(key=key, value=_shown(now[key]), before=old.get(key), place=origin(key, where)) for key in changed
    ]


def _base(path: Path) -> tuple[Path | None, Recipe | None]:
    for layer in file_layers(path):
        try:
            if layer.path is not None:
                return layer.path, load(layer.path)
        except RecipeError:
            continue
    return None, None


def _of_profile(entry: Difference, names: Mapping[str, str]) -> Difference:
    for source, what in names.items():
        if entry.place.startswith(source):
            return Difference(key=entry.key, value=entry.value, before=entry.before, place=f"{what}{entry.place}")
    return entry


def _shown(value: Any) -> str:
    return one_line(to_yaml_line(value), _LONGEST)
