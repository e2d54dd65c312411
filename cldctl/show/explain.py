"""`cldctl explain`: keys of recipes, their sections and variants."""

from collections.abc import Mapping

from cld_core.config import describe, load
from cld_core.config.describe import Meanings
from cld_core.config.loader import to_yaml_line
from cld_core.config.registry import SECTIONS
from cld_core.config.schema import leaves
from cld_core.config.shipped import recipes
from cld_core.errors import CldError

from .console import listed, out, strong
from .tables import TextTable


def show(name: str | None) -> None:
    """Explain a key, a section or a variant; without a name, list the sections.

    Raises:
        RecipeError: nothing has this name; the message contains the nearest.
    """
    if name is None:
        for section, doc in describe.sections().items():
            if "." not in section:
                out.print(strong("", f"{section:<10}", f" {doc}"))
        out.print("\n`cldctl explain SECTION` lists the keys of a section.")
        return
    section, part = describe.find(name)
    if not part:
        _section(section)
    elif part in (keys := describe.keys()):
        _key(part, keys[part])
    else:
        doc = f"{SECTIONS[section].docs[part]} ({SECTIONS[section].selector}={part})"
        out.print(strong("", f"{section}.{part}", f": {doc}"))
        _table(describe.keys_of(section, part))


def _section(name: str) -> None:
    sections = describe.sections()
    out.print(strong("", name, f": {sections[name]}"))
    if (section := SECTIONS.get(name)) is not None:
        for variant, doc in section.docs.items():
            out.print(f"  {section.selector}={variant}: {doc}")
        out.print()
    _table(describe.keys_of(name))
    for inner in sections:
        if inner.rpartition(".")[0] == name:
            out.print(f"`cldctl explain {inner}` lists the keys of {inner}.")


def _table(keys: Mapping[str, Meanings]) -> None:
    """A line for each key: its default, or those of the variants, and what it is."""
    columns: dict[str, list[str]] = {"key": list(keys), "default": [], "meaning": []}
    for key, meanings in keys.items():
        defaults = dict.fromkeys(to_yaml_line(entry.usual) for entry in meanings)
        columns["default"].append(" or ".join(defaults))
        meaning = next(iter(meanings)).doc
        variants = _variants_with(key, meanings).partition("=")[2]
        columns["meaning"].append(f"{meaning} ({variants})" if variants else meaning)
    out.print(TextTable(columns, left=columns, wraps="meaning"))


def _key(key: str, meanings: Meanings) -> None:
    out.print(strong("", key, f": {'; '.join(dict.fromkeys(entry.doc for entry in meanings))}"))
    lines: list[tuple[str, str]] = []
    for entry, variants in meanings.items():
        whose = f"  ({', '.join(variants)})" if len(meanings) > 1 else ""
        lines += [
            ("expects", f"{entry.expects}{whose}"),
            ("default", f"{to_yaml_line(entry.usual)}{whose}"),
        ]
    if only := _variants_with(key, meanings):
        lines.append(("only with", only))
    label = "recipes"
    for text in _values_in_recipes(key):
        lines.append((label, text))
        label = ""
    for label, text in lines:
        out.print(f"  {label:<10} {text}")


def _variants_with(key: str, meanings: Meanings) -> str:
    """The variants that have a key; empty if all have it."""
    section = SECTIONS.get(key.rpartition(".")[0])
    mine = [variant for variants in meanings.values() for variant in variants]
    if section is None or not mine or set(mine) == set(section.variants):
        return ""
    return f"{section.selector}={', '.join(mine)}"


def _values_in_recipes(key: str) -> list[str]:
    """The values of a key in the shipped recipes, each with the names of some of these."""
    users: dict[str, list[str]] = {}
    for name, file in recipes().items():
        try:
            values = leaves(load(file, with_plugins=False).to_dict())
        except CldError:
            continue
        if key in values:
            users.setdefault(to_yaml_line(values[key]), []).append(name)
    return [f"{value} in {listed(names, 4)}" for value, names in users.items()]
