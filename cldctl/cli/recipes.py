"""`cldctl recipes`: the available recipes."""

from cld_core.errors import RecipeError
from cldctl.lookup import place, recipe_files
from cldctl.show.console import err, out


def recipes() -> None:
    """List the recipes that ship with cldctl and those in ./recipes.

    Example: cldctl recipes
    """
    from cld_core.recipe import load, shipped
    from cldctl.show.tables import table

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
    optional = ("from", "batch", "sde", "network", "steps", "data")
    out.print(table(columns, right=("steps", "batch"), optional=optional, wraps="description"))
