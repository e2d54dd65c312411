"""What `cldctl explain` says about keys of recipes, their sections and variants."""

from collections.abc import Sequence
from typing import Any

from cld_core.config import describe, load
from cld_core.config.describe import Key, Section
from cld_core.config.loader import to_yaml_line
from cld_core.config.registry import SECTIONS
from cld_core.config.schema import leaves
from cld_core.errors import CldError
from cldctl.lookup import recipe_files

from .console import out, strong
from .format import listed
from .tables import table


def show(name: str | None) -> None:
    """Explain a key, a section or a variant; without a name, list the sections.

    Raises:
        RecipeError: there is none of this name; names the nearest.
    """
    if name is None:
        for section in describe.sections().values():
            if section.name and "." not in section.name:
                out.print(strong("", f"{section.name:<10}", f" {section.doc}"))
        out.print("\n`cldctl explain SECTION` lists the keys of a section.")
        return
    found = describe.find(name)
    if isinstance(found, Key):
        _key(found)
    elif isinstance(found, Section):
        _section(found)
    else:
        section, variant = found
        doc = f"{section.variants[variant]} ({section.selector}={variant})"
        out.print(strong("", f"{section.name}.{variant}", f": {doc}"))
        _table(section.keys_of(variant))


def _section(section: Section) -> None:
    out.print(strong("", section.name, f": {section.doc}"))
    for variant, doc in section.variants.items():
        out.print(f"  {section.selector}={variant}: {doc}")
    if section.variants:
        out.print()
    _table(section.keys)
    for inner in section.sections:
        out.print(f"`cldctl explain {inner}` lists the keys of {inner}.")


def _table(keys: Sequence[Key]) -> None:
    """A line for each key: its default, or those of the variants, and what it is."""
    columns: dict[str, list[Any]] = {"key": [], "default": [], "meaning": []}
    for key in keys:
        whose = _variants_with(key).partition("=")[2]
        columns["key"].append(key.name)
        columns["default"].append(" or ".join(dict.fromkeys(meaning.default for meaning in key.meanings)))
        columns["meaning"].append(f"{key.meanings[0].doc}{f' ({whose})' if whose else ''}")
    out.print(table(columns, wraps="meaning"))


def _key(key: Key) -> None:
    out.print(strong("", key.name, f": {'; '.join(dict.fromkeys(meaning.doc for meaning in key.meanings))}"))
    lines: list[tuple[str, str]] = []
    for meaning in key.meanings:
        whose = f"  ({', '.join(meaning.variants)})" if len(key.meanings) > 1 else ""
        lines += [("expects", f"{meaning.expects}{whose}"), ("default", f"{meaning.default}{whose}")]
    if variants := _variants_with(key):
        lines.append(("only with", variants))
    lines += [("" if number else "recipes", text) for number, text in enumerate(_values_in_recipes(key.name))]
    for label, text in lines:
        out.print(f"  {label:<10} {text}")


def _variants_with(key: Key) -> str:
    """The variants that have a key, if not all do."""
    section = SECTIONS.get(key.section)
    mine = [variant for meaning in key.meanings for variant in meaning.variants]
    if section is None or not mine or set(mine) == set(section.variants):
        return ""
    return f"{section.selector}={', '.join(mine)}"


def _values_in_recipes(key: str) -> list[str]:
    """The values that recipes have, each with the names of some of them."""
    users: dict[str, list[str]] = {}
    for name, file in recipe_files().items():
        try:
            values = leaves(load(file, with_plugins=False).to_dict())
        except CldError:
            continue
        if key in values:
            users.setdefault(to_yaml_line(values[key]), []).append(name)
    return [f"{value} in {listed(names, 4)}" for value, names in users.items()]
