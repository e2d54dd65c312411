"""The recipe of a run as a difference to the shipped one that it is made from, and in full."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.errors import CldError
from cld_core.recipe import Recipe, dump, load
from cld_core.recipe.reading import to_yaml_line
from cld_core.recipe.tree import leaves
from cld_core.run import RunFolder
from cld_core.texts import one_line
from cldctl.lookup import recipe_files
from cldctl.show.format import keys_differ

from .table import Table

# Of a value, in characters.
_LONGEST = 120
# What a run has of its own: where it runs and what it is called.
_OWN = ("name",)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The recipe for a page.

    Attributes:
        base: the name of the shipped recipe; None if nothing shipped is like it.
        differences: a row for each key that differs; None if none does.
        summary: how many they are, in words.
        text: the whole recipe as YAML, or why it cannot be read.
    """

    base: str | None
    differences: Table | None
    summary: str
    text: str


@dataclass(frozen=True)
class Difference:
    """A shipped recipe, None if none can be read, and each key that differs from it, with both values."""

    base: str | None
    keys: Sequence[tuple[str, Any, Any]]


def shown(run: RunFolder) -> Shown:
    """The recipe of a run; of one that cannot be read, only why."""
    try:
        recipe = run.recipe()
    except (CldError, OSError) as error:
        return Shown(base=None, differences=None, summary="The recipe cannot be read", text=one_line(error, 1000))
    found = difference(run, recipe)
    if found.base is None:
        return Shown(base=None, differences=None, summary="The whole recipe", text=dump(recipe))
    rows = [[key, _text(own), _text(theirs)] for key, own, theirs in found.keys]
    caption = f"Keys that differ from the shipped recipe {found.base}"
    table = Table(caption=caption, headings=["key", "this run", found.base], rows=rows) if rows else None
    summary = f"{keys_differ(len(rows))} from the shipped recipe {found.base}"
    return Shown(base=found.base, differences=table, summary=summary, text=dump(recipe))


def difference(run: RunFolder, recipe: Recipe) -> Difference:
    """How the recipe of a run differs from the shipped one that it is made from, or that is most like it."""
    own = _values(recipe)
    base, differing = _nearest(run.identity().get("recipe") or recipe.name, own)
    theirs = (_shipped_values(base) if base is not None else None) or {}
    return Difference(base, [(key, own.get(key), theirs.get(key)) for key in differing])


def _nearest(name: str, own: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """The shipped recipe of this name, else the one that differs in the fewest keys; and these keys."""
    names = [name] if name in recipe_files() else list(recipe_files())
    found = []
    for candidate in names:
        theirs = _shipped_values(candidate)
        if theirs is not None:
            differing = [key for key in dict.fromkeys([*own, *theirs]) if own.get(key) != theirs.get(key)]
            found.append((len(differing), candidate, differing))
    _, base, differing = min(found, default=(0, None, list[str]()))
    return base, differing


@functools.cache
def _shipped_values(name: str) -> Mapping[str, Any] | None:
    """The values of a shipped recipe by key; None if it cannot be read."""
    try:
        return _values(load(recipe_files()[name]).anchored(Path.cwd()))
    except (CldError, OSError):
        return None


def _values(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in leaves(recipe.to_dict()).items() if key not in _OWN}


def _text(value: Any) -> str:
    return one_line(to_yaml_line(value), _LONGEST)
