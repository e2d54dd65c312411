"""`cldctl recipes`, `render` and `explain`: what recipes there are, what one says, and what its keys mean."""

from typing import Annotated

import typer

from cld_core.errors import RecipeError, UsageError
from cldctl.show.console import err, out

from . import options


def recipes() -> None:
    """List the recipes that ship with cldctl and those in ./recipes.

    Example: cldctl recipes
    """
    from cld_core.recipe import load, shipped
    from cldctl.lookup import place, recipe_files
    from cldctl.show.tables import table

    columns: dict[str, list[str]] = {
        heading: [] for heading in ("recipe", "description", "data", "sde", "network", "steps", "batch", "from")
    }
    for name, file in recipe_files().items():
        try:
            recipe = load(file)
        except RecipeError as error:
            err.print(f"skipped: {error}", style="yellow")
            continue
        steps, batch = f"{recipe.train.steps:,}", str(recipe.train.batch_size)
        about = shipped.description(file)
        cells = (name, about, recipe.data.name, recipe.sde.name, recipe.network.name, steps, batch, place(file))
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    optional = ("from", "batch", "sde", "network", "steps", "data")
    out.print(table(columns, right=("steps", "batch"), optional=optional, wraps="description"))


def render(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    comments: Annotated[bool, typer.Option(help="Explain each key in a comment.")] = False,
    changed: Annotated[bool, typer.Option(help="Only the keys that differ from their defaults.")] = False,
) -> None:
    """Print the resolved YAML of a recipe.

    Example: cldctl render toy sde.beta0=2 --comments

    Example: cldctl render cifar10 --changed
    """
    from cld_core.recipe import dump, dump_changed, load
    from cld_core.recipe.commented import dump_with_comments
    from cldctl.lookup import find_recipe

    if comments and changed:
        raise UsageError("--comments explains all keys, and --changed shows some. Leave one out.")
    resolved = load(find_recipe(recipe), overrides or [])
    if changed:
        text = dump_changed(resolved)
    else:
        text = dump_with_comments(resolved) if comments else dump(resolved, frozen=False)
    out.print(text, end="", no_wrap=True)


def explain(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY | SECTION", help="A key, a section, or a variant such as sde.cld; default: all sections."
        ),
    ] = None,
) -> None:
    """Explain a recipe key: what it means, which values it takes, its default, and what the recipes set.

    Example: cldctl explain train.ema

    Example: cldctl explain sampling
    """
    from cldctl.show.keys import show

    show(name)
