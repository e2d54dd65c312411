"""Recipes and profiles by name: the user's own take precedence over those shipped with cldctl."""

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

# The endings of files for which `cldctl init` writes a recipe.
_DATA = (".npy", ".npz", ".safetensors", ".zip", ".tar")


def find_recipe(name: str) -> Path:
    """The file of a recipe, by its path or name.

    Raises:
        RecipeError: there is no such recipe; names the nearest.
    """
    by_name = shipped.recipes()
    file = shipped.named(name, by_name)
    is_data = os.path.isfile(name) and name.endswith(_DATA)
    if is_data or (file is None and os.path.isdir(name)):
        raise RecipeError(
            f"{name}: this is not a recipe. `cldctl init {shlex.quote(name)}` writes one for the "
            "data in it."
        )
    if file is not None:
        return file
    if os.path.isfile(beside := f"{name}.yaml"):
        raise RecipeError(
            f"{name}: there is no recipe of this name. Did you mean '{os.path.join('.', beside)}'?"
        )
    fix = did_you_mean(Path(name).stem, by_name) or " `cldctl recipes` lists the available ones."
    raise RecipeError(f"{name}: {_missing(name, 'recipe')}.{fix}")


def find_profile(name: str | None) -> Path | None:
    """The file of a profile, by its path or name; None without a name.

    A profile has the settings that one cluster needs for its jobs.

    Raises:
        RecipeError: there is no such profile; names the nearest.
    """
    if name is None:
        return None
    by_name = profile_files()
    if (file := shipped.named(name, by_name)) is not None:
        return file
    guess = did_you_mean(Path(name).stem, by_name)
    if not guess and by_name:
        guess = f" There are: {', '.join(by_name)}."
    problem = _missing(name, "profile")
    own = _own_profiles()
    if own is not None and not shipped.is_path(name):
        problem += f", neither in {own} nor among those that come with cldctl"
    raise RecipeError(f"--profile {name}: {problem}.{guess}")


def _missing(name: str, kind: str) -> str:
    """Why there is no recipe or profile of this name."""
    if os.path.isdir(name):
        return "it is a folder"
    return "there is no such file" if shipped.is_path(name) else f"there is no such {kind}"


def profile_files() -> dict[str, Path]:
    """The files of all profiles by name, sorted; the user's own take precedence."""
    own = _own_profiles()
    return shipped.files(*([] if own is None else [own]), shipped.folder() / "profiles")


def _own_profiles() -> Path | None:
    folder = config.folder()
    return None if folder is None else folder / "profiles"


def place(file: Path) -> str:
    """Where a recipe is: "cldctl" if it comes with it, else its path.

    The path is relative to the working directory if the file is below it.
    """
    absolute = file.absolute()
    if absolute.parent == shipped.folder():
        return "cldctl"
    if absolute.is_relative_to(Path.cwd()):
        return str(absolute.relative_to(Path.cwd()))
    return str(file)


def called(file: Path) -> str:
    """The argument of `submit` for a recipe: its name if it comes with cldctl, or else its path."""
    return file.stem if place(file) == "cldctl" else place(file)


def recipe_or_run(name: str, overrides: Sequence[str], runs: Path) -> "Recipe":
    """The recipe, with overrides, of a run of this name in ``runs``, or else that of this name.

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
