"""The recipe in a model card: how it differs from the shipped one that it is made from, and in full, folded."""

from pathlib import Path
from typing import Any

import yaml

from cld_core.recipe import Recipe
from cld_core.recipe.reading import to_yaml_line
from cld_core.run import RunFolder
from cld_core.texts import fenced
from cldctl.show.format import keys_differ

from .markdown import escaped, table
from .recipe import Difference, difference

_LEFT_OUT = "The sections that say which machines were used are left out."


def section(run: RunFolder, recipe: Recipe) -> list[str]:
    """The paragraphs below the heading: nothing of them tells whose machines and folders were used."""
    found = difference(run, recipe)
    whole = fenced(_shared(recipe), "yaml")
    if found.base is None:
        return [_LEFT_OUT, whole]
    rows = _rows(found, recipe)
    return [
        f"{keys_differ(len(rows))} from {escaped(found.base)}, a recipe that comes with cldctl. {_LEFT_OUT}",
        *([table(["key", "this model", found.base], rows)] if rows else []),
        f"<details>\n<summary>The whole recipe</summary>\n\n{whole}\n\n</details>",
    ]


def _rows(found: Difference, recipe: Recipe) -> list[tuple[str, str, str]]:
    sections = recipe.to_share()
    rows = [(key, _text(own), _text(theirs)) for key, own, theirs in found.keys if key.partition(".")[0] in sections]
    # The same data may lie in different folders.
    return [row for row in rows if row[1] != row[2]]


def _text(value: Any) -> str:
    return to_yaml_line(_without_folders(value))


def _shared(recipe: Recipe) -> str:
    """The recipe as YAML without machines and people, and of paths only the last part."""
    text: str = yaml.safe_dump(_without_folders(recipe.to_share()), sort_keys=False, allow_unicode=True)
    return text


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value
