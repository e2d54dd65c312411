"""`cldctl recipes`, `render` and `explain`: what recipes there are, what one says, and what its keys mean."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cld_core.errors import CldError, RecipeError, UsageError

from . import completion, options

if TYPE_CHECKING:
    from cld_core.recipe.described import Key, Section

_EXAMPLES = 4  # recipes with the same value that are named


def recipes() -> None:
    """List the recipes that ship with cldctl and those in ./recipes.

    Example: cldctl recipes
    """
    from cld_core.recipe import load, shipped
    from cldctl.lookup import place, recipe_files
    from cldctl.show.console import err, out
    from cldctl.show.fitting import fitted

    columns: dict[str, list[str]] = {
        heading: [] for heading in ("recipe", "description", "data", "sde", "network", "steps", "batch", "from")
    }
    for name, file in recipe_files().items():
        try:
            recipe = load(file)
        except RecipeError as error:
            err.print(f"skipped: {error}", markup=False, style="yellow")
            continue
        steps, batch = f"{recipe.train.steps:,}", str(recipe.train.batch_size)
        about = shipped.description(file)
        cells = (name, about, recipe.data.name, recipe.sde.name, recipe.network.name, steps, batch, place(file))
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    # A description is wrapped where there is no room for it.
    out.print(fitted(columns, ("from", "batch", "sde", "network", "steps", "data"), ("steps", "batch")))


def render(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    comments: Annotated[bool, typer.Option("--comments", help="Explain each key in a comment.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only the keys that differ from their defaults.")] = False,
) -> None:
    """Print the resolved YAML of a recipe.

    Example: cldctl render toy sde.beta0=2 --comments

    Example: cldctl render cifar10 --changed
    """
    from cld_core.recipe import dump, dump_changed, load
    from cld_core.recipe.commented import dump_with_comments
    from cldctl.lookup import find_recipe
    from cldctl.show.console import out

    if comments and changed:
        raise UsageError("--comments explains all keys, and --changed shows some. Leave one out.")
    resolved = load(find_recipe(recipe), overrides or [])
    if changed:
        text = dump_changed(resolved)
    else:
        text = dump_with_comments(resolved) if comments else dump(resolved, frozen=False)
    out.print(text, end="", markup=False, no_wrap=True)


def explain(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY | SECTION",
            help="A key, a section, or a variant such as sde.cld; default: all sections.",
            autocompletion=completion.explained,
        ),
    ] = None,
) -> None:
    """Explain a recipe key: what it means, which values it takes, its default, and what the recipes set.

    Example: cldctl explain train.ema

    Example: cldctl explain sampling
    """
    from cld_core.recipe import described
    from cldctl.show.console import out, strong

    if name is None:
        for section in described.sections().values():
            if section.name and "." not in section.name:
                out.print(strong("", f"{section.name:<10}", f" {section.doc}"))
        out.print("\n`cldctl explain SECTION` lists the keys of a section.")
        return
    found = described.find(name)
    if isinstance(found, described.Key):
        _key(found)
    elif isinstance(found, described.Section):
        _section(found)
    else:
        section, variant = found
        doc = f"{section.variants[variant]} ({section.name}.{section.selector}={variant})"
        out.print(strong("", f"{section.name}.{variant}", f": {doc}"))
        _table(section.keys_of(variant))


def _section(section: "Section") -> None:
    from cldctl.show.console import out, strong

    out.print(strong("", section.name, f": {section.doc}"))
    for variant, doc in section.variants.items():
        out.print(f"  {section.name}.{section.selector}={variant}: {doc}")
    if section.variants:
        out.print()
    _table(section.keys)
    for inner in section.sections:
        out.print(f"`cldctl explain {inner}` lists the keys of {inner}.")


def _table(keys: "Sequence[Key]") -> None:
    """A line for each key: its default, or those of the variants, and what it is."""
    from cldctl.show.console import out
    from cldctl.show.fitting import fitted

    columns: dict[str, list[Any]] = {"key": [], "default": [], "meaning": []}
    for key in keys:
        whose = _variants_with(key).partition("=")[2]
        columns["key"].append(key.name)
        columns["default"].append(" or ".join(dict.fromkeys(meaning.default for meaning in key.meanings)))
        columns["meaning"].append(f"{key.meanings[0].doc}{f' ({whose})' if whose else ''}")
    out.print(fitted(columns, (), ()))


def _key(key: "Key") -> None:
    from cldctl.show.console import out, strong

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
