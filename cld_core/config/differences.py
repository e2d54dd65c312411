"""How a recipe differs from the one that it builds on, and what has set each difference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.errors import RecipeError
from cld_core.sanitize import one_line

from .build import COMMAND_LINE
from .layers import file_layers
from .loading import load, load_with_places
from .reading import printed, to_yaml_line
from .schema import Recipe
from .tree import leaves, origin

_LONGEST = 80  # characters of a value


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key, its value and that of the base as YAML (None: the base has no such key), and what set it."""

    key: str
    value: str
    before: str | None
    place: str


def from_base(
    path: Path, overrides: Sequence[str] = (), profile: Path | None = None
) -> tuple[Path | None, list[Difference]]:
    """The recipe at the end of the chain of `extends`, and how what `load` gives differs from it.

    What the command line sets comes first. A file that extends nothing is its own base. If an ancestor is no complete
    recipe by itself, the next one is the base; None if none is.

    Raises:
        RecipeError: as `load`.
    """
    recipe, where = load_with_places(path, overrides, profile)
    base, before = _base(path)
    if base is None or before is None:
        return None, []
    names = {printed(profile): "profile "} if profile is not None else {}
    found = differences(recipe, before, where)
    shown = [_named(entry, names) for entry in found if entry.key != "name" or entry.place == where.get("name")]
    # First what was typed just now, which is what somebody looks for.
    return base, sorted(shown, key=lambda entry: entry.place != COMMAND_LINE)


def differences(recipe: Recipe, before: Recipe, where: Mapping[str, str]) -> list[Difference]:
    """The keys of ``recipe`` whose values are not those of ``before``, in the recipe's order."""
    now, then = leaves(recipe.to_dict()), leaves(before.to_dict())
    changed = [key for key, value in now.items() if key not in then or then[key] != value]
    old = {key: _shown(then[key]) for key in changed if key in then}
    return [
        Difference(key=key, value=_shown(now[key]), before=old.get(key), place=origin(key, where)) for key in changed
    ]


def _base(path: Path) -> tuple[Path | None, Recipe | None]:
    for layer in file_layers(path):
        try:
            if layer.path is not None:
                return layer.path, load(layer.path)
        except RecipeError:
            continue
    return None, None


def _named(entry: Difference, names: Mapping[str, str]) -> Difference:
    for source, what in names.items():
        if entry.place.startswith(source):
            return Difference(key=entry.key, value=entry.value, before=entry.before, place=f"{what}{entry.place}")
    return entry


def _shown(value: Any) -> str:
    return one_line(to_yaml_line(value), _LONGEST)
