"""Where the recipes that come with this package are."""

import os
import sysconfig
from pathlib import Path

from cld_core.errors import RecipeError
from cld_core.small_files import read_bytes
from cld_core.texts import one_line

# A recipe has at most so many bytes, and its description so many characters.
_MAX_HEAD, _LONGEST = 256 * 2**10, 200
# Beside the code of a checkout, and where an installed package has them.
FOLDERS = (Path(__file__).parents[2] / "recipes", Path(sysconfig.get_path("data")) / "share" / "cldctl" / "recipes")


def parent(name: str, beside: Path) -> Path:
    """The file of the recipe that one in the folder ``beside`` extends: a path from there, or the name of a recipe.

    A name is looked up as `cldctl submit` does, and before that beside the recipe.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name or os.path.isfile(beside / name):
        return beside / name
    for folder in (beside, Path("recipes"), *FOLDERS):
        if os.path.isfile(file := folder / f"{name}.yaml"):
            return file
    return beside / name


def description(file: Path) -> str:
    """What a recipe says about itself: the first sentence of the comment that it begins with; empty without one.

    Raises:
        OSError: the file cannot be read.
    """
    words: list[str] = []
    for line in read_bytes(file, limit=_MAX_HEAD, follow=True).decode(errors="replace").splitlines():
        if not line.startswith("#"):
            break
        words += line.lstrip("#").split()
    text = " ".join(words).partition(". ")[0]
    return one_line(text.removesuffix("."), _LONGEST)


def find(name: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        RecipeError: it was not installed.
    """
    for folder in FOLDERS:
        if (file := folder / f"{name}.yaml").is_file():
            return file
    raise RecipeError(f"{name}: no such recipe in {' or '.join(map(str, FOLDERS))}. Install cldctl again.")
