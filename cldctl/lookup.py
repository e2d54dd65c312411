"""Recipes and profiles, found by name: those of the user take precedence over those that ship with
cldctl."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cld_core.config import shipped
from cld_core.errors import RecipeError, did_you_mean

from . import config

if TYPE_CHECKING:
    from cld_core.config import Recipe

# The endings of files of which `cldctl init` makes a recipe.
_DATA = (".npy", ".npz", ".safetensors", ".zip", ".tar")


def find_recipe(name: str) -> Path:
    """The file of a recipe, given as a path or by its name.

    Raises:
        RecipeError: there is no such recipe; names the nearest.
    """
    by_name = shipped.recipes()
    file = shipped.named(name, by_name)
    is_data = os.path.isfile(name) and name.endswith(_DATA)
    if is_data or (file is None and os.path.isdir(name)):
        init = f"cldctl init {shlex.quote(name)}"
        raise RecipeError(f"{name}: this is not a recipe. `{init}` writes one for the data in it.")
    if file is not None:
        return file
    if os.path.isfile(beside := f"{name}.yaml"):
        raise RecipeError(
            f"{name}: there is no recipe of this name. Did you mean '{os.path.join('.', beside)}'?"
        )
    fix = did_you_mean(Path(name).stem, by_name) or " `cldctl recipes` lists the available ones."
    raise RecipeError(f"{name}: {_missing(name, 'recipe')}.{fix}")


def find_profile(name: str | None) -> Path | None:
    """The file of a profile, what one cluster needs for its jobs, given as a path or by its name;
    None without a name.

    Raises:
        RecipeError: there is no such profile; names the nearest.
    """
    if name is None:
        return None
    by_name = profile_files()
    if (file := shipped.named(name, by_name)) is not None:
        return file
    fix = did_you_mean(Path(name).stem, by_name) or (
        f" There are: {', '.join(by_name)}." if by_name else ""
    )
    own = _own_profiles()
    is_name = not shipped.is_path(name) and own is not None
    where = f", neither in {own} nor among those that come with cldctl" if is_name else ""
    raise RecipeError(f"--profile {name}: {_missing(name, 'profile')}{where}.{fix}")


def _missing(name: str, what: str) -> str:
    return (
        "it is a folder"
        if os.path.isdir(name)
        else f"there is no such {'file' if shipped.is_path(name) else what}"
    )


def profile_files() -> dict[str, Path]:
    """The files of all profiles by name, sorted; the user's own take precedence."""
    own = _own_profiles()
    return shipped.files(*([] if own is None else [own]), shipped.folder() / "profiles")


def _own_profiles() -> Path | None:
    folder = config.folder()
    return None if folder is None else folder / "profiles"


def place(file: Path) -> str:
    """Where a recipe is: "cldctl" if it comes with it, else its path, from the working directory if
    it is below it."""
    if file.absolute().parent == shipped.folder():
        return "cldctl"
    below = file.absolute().is_relative_to(Path.cwd())
    return str(file.absolute().relative_to(Path.cwd()) if below else file)


def called(file: Path) -> str:
    """What people call a recipe: by its name if it comes with cldctl, else by its path."""
    return file.stem if place(file) == "cldctl" else place(file)


def recipe_or_run(name: str, overrides: Sequence[str], runs: Path) -> "Recipe":
    """The recipe of a run of this name in the folder ``runs``, or else the recipe of this name,
    with overrides.

    Raises:
        RecipeError: there is neither.
    """
    from cld_core.config import load, with_overrides
    from cld_core.run import RunFolder
    from cld_core.run.folder import meant
    from cld_core.run.recipe import trusted_recipe

    run = meant(name, runs)
    if run.exists:
        run = RunFolder.open(run.path)
        return with_overrides(trusted_recipe(run), overrides, str(run.recipe_file))
    try:
        file = find_recipe(name)
    except RecipeError as error:
        raise RecipeError(f"{error} Nor is there such a run in {runs.absolute()}.") from error
    return load(file, overrides)
