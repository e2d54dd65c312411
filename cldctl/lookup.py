"""Recipes and profiles, found by name: those of the user take precedence over those that ship with cldctl."""

import os
from pathlib import Path

from cld_core.errors import RecipeError, did_you_mean, nearest
from cld_core.recipe import shipped

from . import config


def find_recipe(name: str) -> Path:
    """The file of a recipe, given as a path or by its name.

    Raises:
        RecipeError: there is no such recipe; names the nearest.
    """
    by_name = recipe_files()
    if (file := _file_of(name, by_name)) is not None:
        return file
    if os.path.isfile(beside := f"{name}.yaml"):
        raise RecipeError(f"{name}: there is no recipe of this name. Did you mean '{os.path.join('.', beside)}'?")
    close = nearest(Path(name).stem, by_name)
    fix = "`cldctl recipes` lists the available ones." if close is None else f"Did you mean '{short(by_name[close])}'?"
    raise RecipeError(f"{name}: there is no such recipe. {fix}")


def find_profile(name: str | None) -> Path | None:
    """The file of a profile, what one cluster needs for its jobs, given as a path or by its name; None without a name.

    Raises:
        RecipeError: there is no such profile; names the nearest.
    """
    if name is None:
        return None
    folders, by_name = _profile_folders(), profile_files()
    if (file := _file_of(name, by_name)) is not None:
        return file
    fix = did_you_mean(name, by_name) or f" Available: {', '.join(by_name) or 'none'}."
    raise RecipeError(f"--profile {name}: there is no such profile in {', '.join(map(str, folders))}.{fix}")


def profile_files() -> dict[str, Path]:
    """The files of all profiles by name, sorted; the user's own take precedence."""
    return _by_name(_profile_folders())


def _profile_folders() -> tuple[Path, ...]:
    return tuple(folder / "profiles" for folder in (config.folder(), *shipped.FOLDERS))


def recipe_files() -> dict[str, Path]:
    """The files of all recipes by name, sorted; those in ./recipes take precedence."""
    return _by_name((Path("recipes"), *shipped.FOLDERS))


def short(file: Path) -> str:
    """The path from the working directory, if the file is below it."""
    try:
        return str(file.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def _file_of(name: str, by_name: dict[str, Path]) -> Path | None:
    return Path(name) if os.path.isfile(name) else by_name.get(name)


def _by_name(folders: tuple[Path, ...]) -> dict[str, Path]:
    """The YAML files of folders by their stems, sorted; an earlier folder wins."""
    files = {file.stem: file for folder in reversed(folders) for file in folder.glob("*.yaml")}
    return dict(sorted(files.items()))
