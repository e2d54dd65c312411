"""Where the recipes that come with this package are."""

import sysconfig
from pathlib import Path

from cld_core.errors import RecipeError

# Beside the code of a checkout, and where an installed package has them.
FOLDERS = (Path(__file__).parents[2] / "recipes", Path(sysconfig.get_path("data")) / "share" / "cldctl" / "recipes")


def find(name: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        RecipeError: it was not installed.
    """
    for folder in FOLDERS:
        if (file := folder / f"{name}.yaml").is_file():
            return file
    raise RecipeError(f"{name}: no such recipe in {' or '.join(map(str, FOLDERS))}. Install cldctl again.")
