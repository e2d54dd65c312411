"""Recipes by name: the user's own, and those that come with this package."""

import functools
import os
import re
from importlib import resources
from pathlib import Path

from cld_core.files import read_bytes
from cld_core.sanitize import one_line

# The most bytes of a recipe.
_MAX_HEAD = 256 * 2**10
# The most characters of its description.
_LONGEST = 200
# The user's own recipes, below the working directory. They take precedence.
OWN = Path("recipes")


@functools.cache
def folder() -> Path:
    """The folder of the recipes of this package: in the package, or `recipes/` of a checkout."""
    installed = Path(str(resources.files("cld_core"))) / "recipes"
    return installed if installed.is_dir() else installed.parents[1] / "recipes"


def files(*folders: Path) -> dict[str, Path]:
    """The YAML files of folders by their stems, sorted; an earlier folder wins."""
    by_stem = {file.stem: file for place in reversed(folders) for file in place.glob("*.yaml")}
    return dict(sorted(by_stem.items()))


def recipes() -> dict[str, Path]:
    """The files of all recipes by name, sorted."""
    return files(OWN, folder())


def named(name: str, by_name: dict[str, Path]) -> Path | None:
    """The file at the path ``name``, or else the recipe of that name; None if neither exists."""
    return Path(name) if os.path.isfile(name) else by_name.get(name)


def description(file: Path) -> str:
    """The first sentence of the comment at the head of a recipe; empty without one.

    Raises:
        OSError: the file cannot be read.
    """
    content = read_bytes(file, limit=_MAX_HEAD, follow=True).decode(errors="replace")
    words: list[str] = []
    for line in content.splitlines():
        if not line.startswith("#"):
            break
        words += line.lstrip("#").split()
    # The next sentence begins with a capital letter: "e.g." does not end one.
    text, *_ = re.split(r"\. (?=[A-Z])", " ".join(words), maxsplit=1)
    return one_line(text.removesuffix("."), _LONGEST)


def find(name: str) -> Path:
    """The file of a recipe that comes with this package."""
    return folder() / f"{name}.yaml"


def parent(name: str, child: Path) -> Path:
    """The file of the recipe that ``child`` extends: a path from its folder, or the name of a
    recipe.

    A name is looked up beside ``child``, and then as `cldctl submit` does. It never means ``child``
    itself if there is another recipe of that name: a `toy.yaml` may extend `toy`.
    """
    beside = child.parent
    if is_path(name) or os.path.isfile(beside / name):
        return beside / name
    places = [place / f"{name}.yaml" for place in (beside, OWN, folder())]
    existing = [file for file in places if os.path.isfile(file)]
    others = [file for file in existing if not os.path.samefile(file, child)]
    return next(iter(others or existing), beside / name)


def is_path(name: str) -> bool:
    """Whether ``name`` is a path rather than the name of a recipe."""
    return name.endswith((".yaml", ".yml")) or "/" in name
