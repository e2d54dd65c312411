"""`cldctl explain`: what the keys of a recipe mean."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cld_core.errors import CldError
from cldctl.show.console import out, strong

from . import completing

if TYPE_CHECKING:
    from cld_core.recipe.described import Key, Section

_EXAMPLES = 4  # recipes with the same value that are named


def explain(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY | SECTION",
            help="A key, a section, or a variant such as sde.cld; default: all sections.",
            autocompletion=completing.explained,
        ),
    ] = None,
) -> None:
    """Explain a recipe key: what it means, which values it takes, its default, and what the recipes set.

    Example: cldctl explain train.ema

    Example: cldctl explain sampling
    """
    from cld_core.recipe import described

    if name is None:
        _sections(described.sections())
        return
    found = described.find(name)
    if isinstance(found, described.Key):
        _key(found)
    elif isinstance(found, described.Section):
        _section(found)
    else:
        section, variant = found
        _show(f"{section.name}.{variant}", f"{section.variants[variant]} ({section.name}.{section.selector}={variant})")
        _table(section.keys_of(variant))


def _sections(sections: "Mapping[str, Section]") -> None:
    for name, section in sections.items():
        if name and "." not in name:
            out.print(strong("", f"{name:<10}", f" {section.doc}"))
    out.print("\n`cldctl explain SECTION` lists the keys of a section.")


def _section(section: "Section") -> None:
    _show(section.name, section.doc)
    for variant, doc in section.variants.items():
        out.print(f"  {section.name}.{section.selector}={variant}: {doc}")
    if section.variants:
        out.print()
    _table(section.keys)
    for inner in section.sections:
        out.print(f"`cldctl explain {inner}` lists the keys of {inner}.")


def _table(keys: "Sequence[Key]") -> None:
    """A line for each key: its default, or those of the variants, and what it is."""
    from cldctl.show.tables import table

    columns: dict[str, list[Any]] = {"key": [], "default": [], "meaning": []}
    for key in keys:
        whose = _variants_with(key).partition("=")[2]
        columns["key"].append(key.name)
        columns["default"].append(" or ".join(dict.fromkeys(meaning.default for meaning in key.meanings)))
        columns["meaning"].append(f"{key.meanings[0].doc}{f' ({whose})' if whose else ''}")
    out.print(table(columns, wraps="meaning"))


def _key(key: "Key") -> None:
    docs = list(dict.fromkeys(meaning.doc for meaning in key.meanings))
    _show(key.name, "; ".join(docs))
    for meaning in key.meanings:
        whose = f"  ({', '.join(meaning.variants)})" if len(key.meanings) > 1 else ""
        _line("expects", f"{meaning.expects}{whose}")
        _line("default", f"{meaning.default}{whose}")
    section = _variants_with(key)
    if section:
        _line("only with", section)
    for label, value in zip(("recipes", *[""] * 50), _values_in_recipes(key.name), strict=False):
        _line(label, value)


def _variants_with(key: "Key") -> str:
    """The variants that have a key, if not all do."""
    from cld_core.recipe.variants import SECTIONS

    section = SECTIONS.get(key.section)
    mine = [variant for meaning in key.meanings for variant in meaning.variants]
    if section is None or not mine or set(mine) == set(section.variants):
        return ""
    return f"{key.section}.{section.selector}={', '.join(mine)}"


def _values_in_recipes(key: str) -> list[str]:
    """The values that recipes have, each with the names of some of them."""
    from cld_core.recipe import load
    from cld_core.recipe.reading import to_yaml_line
    from cld_core.recipe.tree import leaves
    from cldctl.lookup import recipe_files

    users: dict[str, list[str]] = {}
    for name, file in recipe_files().items():
        try:
            values = leaves(load(file).to_dict())
        except CldError:
            continue
        if key in values:
            users.setdefault(to_yaml_line(values[key]), []).append(name)
    return [f"{value} in {_listed(names)}" for value, names in users.items()]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return ", ".join(names[:_EXAMPLES]) + more


def _show(name: str, doc: str) -> None:
    out.print(strong("", name, f": {doc}"))


def _line(label: str, text: str) -> None:
    out.print(f"  {label:<10} {text}")
