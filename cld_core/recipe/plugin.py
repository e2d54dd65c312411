"""The user's own code that a recipe names: found when it is submitted, not when the job starts."""

import dataclasses
import importlib.util
from pathlib import Path

from cld_core.errors import RecipeError

from .schema import Recipe, ToyDataSpec


def with_plugin_found(recipe: Recipe, recipe_file: Path) -> Recipe:
    """``recipe`` with the path of `data.plugin` made absolute, looked up from here and from the recipe's folder.

    Raises:
        RecipeError: there is no such file or module.
    """
    data = recipe.data
    if not isinstance(data, ToyDataSpec) or data.plugin is None:
        return recipe
    plugin = data.plugin
    if not plugin.endswith(".py"):
        if importlib.util.find_spec(plugin.partition(".")[0]) is None:
            text = f"names the module {plugin}, which is not installed. Install it, or give a path ending in .py."
            raise RecipeError(f"{recipe_file}: 'data.plugin' {text}")
        return recipe
    for folder in (Path.cwd(), recipe_file.absolute().parent):
        path = folder / Path(plugin).expanduser()
        if path.is_file():
            return dataclasses.replace(recipe, data=dataclasses.replace(data, plugin=str(path.resolve())))
    text = f"names {plugin}, but there is no such file here or beside the recipe. Correct the path."
    raise RecipeError(f"{recipe_file}: 'data.plugin' {text}")


def with_paths(overrides: list[str]) -> list[str]:
    """Overrides whose `data.plugin` and `data.path` are absolute, seen from here: jobs may run elsewhere."""
    found = []
    for text in overrides:
        key, _, value = text.partition("=")
        path = Path(value).expanduser()
        if key in ("data.plugin", "data.path") and path.exists():
            text = f"{key}={path.resolve()}"
        found.append(text)
    return found
