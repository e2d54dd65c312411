"""`cldctl recipes`: the available recipes."""

import sysconfig
from pathlib import Path

from cld_core.errors import RecipeError, nearest
from cldctl.ui.console import err, out


def recipes() -> None:
    """List the recipes that ship with cldctl and those in ./recipes.

    Example: cldctl recipes
    """
    from cld_core.recipe import load
    from cldctl.ui.tables import fitted

    columns: dict[str, list[str]] = {
        heading: [] for heading in ("recipe", "data", "sde", "network", "steps", "batch", "file")
    }
    for file in recipe_files():
        try:
            recipe = load(file)
        except RecipeError as error:
            err.print(f"skipped: {error}", markup=False, style="yellow", soft_wrap=True)
            continue
        steps, batch = f"{recipe.train.steps:,}", str(recipe.train.batch_size)
        cells = (file.stem, recipe.data.name, recipe.sde.name, recipe.network.name, steps, batch, _short(file))
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    out.print(fitted(columns, ("file", "batch", "network", "sde", "steps"), ("steps", "batch")))


def find_recipe(name: str) -> Path:
    """The file of a recipe, given as a path or by its name.

    Raises:
        RecipeError: there is no such recipe; names the nearest.
    """
    if Path(name).is_file():
        return Path(name)
    by_name = {file.stem: file for file in recipe_files()}
    if Path(name).suffix == "" and name in by_name:
        return by_name[name]
    close = nearest(Path(name).stem, by_name)
    fix = "`cldctl recipes` lists the available ones." if close is None else f"Did you mean '{_short(by_name[close])}'?"
    raise RecipeError(f"{name}: there is no such recipe. {fix}")


def recipe_files() -> list[Path]:
    """The files of all recipes, sorted by name; those in ./recipes take precedence."""
    beside_code = Path(__file__).parents[2] / "recipes"
    installed = Path(sysconfig.get_path("data")) / "share" / "cldctl" / "recipes"
    by_name: dict[str, Path] = {}
    for folder in (Path("recipes"), beside_code, installed):
        for file in sorted(folder.glob("*.yaml")):
            by_name.setdefault(file.stem, file)
    return [by_name[name] for name in sorted(by_name)]


def _short(file: Path) -> str:
    """The path from the working directory, if the file is below it."""
    try:
        return str(file.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(file)
