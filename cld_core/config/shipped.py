"""Recipes by name: those of the user, and those that come with this package."""

import functools
import os
import re
from importlib import resources
from pathlib import Path

from cld_core.files import read_bytes
from cld_core.sanitize import one_line

# A recipe has at most so many bytes, and its description so many characters.
_MAX_HEAD, _LONGEST = 256 * 2**10, 200
# Recipes of the user, below the working directory. They take precedence.
OWN = Path("recipes")


@functools.cache
def folder() -> Path:
    """The folder of the recipes that come with this package: data of the package, or `recipes/` of
    a checkout."""
    installed = Path(str(resources.files("cld_core"))) / "recipes"
    return installed if installed.is_dir() else installed.parents[1] / "recipes"


def files(*folders: Path) -> dict[str, Path]:
    """The YAML files of folders by their stems, sorted; an earlier folder wins."""
    found = {file.stem: file for place in reversed(folders) for file in place.glob("*.yaml")}
    return dict(sorted(found.items()))


def recipes() -> dict[str, Path]:
    """The files of all recipes by name, sorted."""
    return files(OWN, folder())


def named(name: str, by_name: dict[str, Path]) -> Path | None:
    """What somebody means by ``name``: a file if there is one, or else what has this name; None if
    nothing has."""
    return Path(name) if os.path.isfile(name) else by_name.get(name)


def description(file: Path) -> str:
    """What a recipe says about itself: the first sentence of the comment that it begins with; empty
    without one.

    Raises:
        OSError: the file cannot be read.
    """
    words: list[str] = []
    for line in (
        read_bytes(file, limit=_MAX_HEAD, follow=True).decode(errors="replace").splitlines()
    ):
        if not line.startswith("#"):
            break
        words += line.lstrip("#").split()
    # A sentence begins with a capital letter; "e.g." ends none.
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
    found = [file for file in places if os.path.isfile(file)]
    others = [file for file in found if not os.path.samefile(file, child)]
    return next(iter(others or found), beside / name)


def is_path(name: str) -> bool:
    """Whether it is a path rather than the name of a recipe."""
    return name.endswith((".yaml", ".yml")) or "/" in name
