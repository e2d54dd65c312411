"""Recipes and profiles, found by name: those of the user take precedence over those that ship with cldctl."""

import os
from pathlib import Path

from cld_core.errors import RecipeError, did_you_mean
from cld_core.recipe import shipped

from . import config


def find_recipe(name: str) -> Path:
    """The file of a recipe, given as a path or by its name.

    Raises:
        RecipeError: there is no such recipe; names the nearest.
    """
    by_name = recipe_files()
    if (file := shipped.named(name, by_name)) is not None:
        return file
    if os.path.isfile(beside := f"{name}.yaml"):
        raise RecipeError(f"{name}: there is no recipe of this name. Did you mean '{os.path.join('.', beside)}'?")
    fix = did_you_mean(Path(name).stem, by_name) or " `cldctl recipes` lists the available ones."
    raise RecipeError(f"{name}: there is no such recipe.{fix}")


def find_profile(name: str | None) -> Path | None:
    """The file of a profile, what one cluster needs for its jobs, given as a path or by its name; None without a name.

    Raises:
        RecipeError: there is no such profile; names the nearest.
    """
    if name is None:
        return None
    by_name = profile_files()
    if (file := shipped.named(name, by_name)) is not None:
        return file
    fix = did_you_mean(name, by_name) or (f" There are: {', '.join(by_name)}." if by_name else "")
    own = _own_profiles()
    where = "" if own is None else f", neither in {own} nor among those that come with cldctl"
    raise RecipeError(f"--profile {name}: there is no such profile{where}.{fix}")


def profile_files() -> dict[str, Path]:
    """The files of all profiles by name, sorted; the user's own take precedence."""
    own = _own_profiles()
    return shipped.files(*([] if own is None else [own]), shipped.profiles())


def _own_profiles() -> Path | None:
    folder = config.folder()
    return None if folder is None else folder / "profiles"


def recipe_files() -> dict[str, Path]:
    """The files of all recipes by name, sorted; those in ./recipes take precedence."""
    return shipped.recipes()


def place(file: Path) -> str:
    """Where a recipe is: "cldctl" if it comes with it, else its path, from the working directory if it is below it."""
    if file.absolute().parent == shipped.folder():
        return "cldctl"
    try:
        return str(file.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def called(file: Path) -> str:
    """What people call a recipe: by its name if it comes with cldctl, else by its path."""
    return file.stem if place(file) == "cldctl" else place(file)
