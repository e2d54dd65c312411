"""Where the recipes that come with this package are."""

import sysconfig
from pathlib import Path

from cld_core.errors import RecipeError

# Beside the code of a checkout, and where an installed package has them.
FOLDERS = (Path(__file__).parents[2] / "recipes", Path(sysconfig.get_path("data")) / "share" / "cldctl" / "recipes")


def parent(name: str, beside: Path) -> Path:
    """The file of the recipe that one in the folder ``beside`` extends: a path from there, or the name of a recipe.

    A name is looked up as `cldctl submit` does, and before that beside the recipe.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name or (beside / name).is_file():
        return beside / name
    for folder in (beside, Path("recipes"), *FOLDERS):
        if (file := folder / f"{name}.yaml").is_file():
            return file
    return beside / name


def find(name: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        RecipeError: it was not installed.
    """
    for folder in FOLDERS:
        if (file := folder / f"{name}.yaml").is_file():
            return file
    raise RecipeError(f"{name}: no such recipe in {' or '.join(map(str, FOLDERS))}. Install cldctl again.")
