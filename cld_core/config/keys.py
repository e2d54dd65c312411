"""A key of a recipe: its default, its bounds, and what the command line says about it."""

from dataclasses import Field, field
from pathlib import Path
from typing import Any, Literal

from cld_core.errors import RecipeError


def key(
    default: Any,
    doc: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    path: Literal["file", "code"] | None = None,
) -> Any:
    """A recipe key with its default, its one-line description and the bounds of its value.

    Args:
        path: the value is a path, which `Recipe.anchored` makes absolute. "code": a Python file, or the name of a
            module, which is left alone.
    """
    bounds = {name: bound for name, bound in (("gt", gt), ("ge", ge), ("lt", lt), ("le", le)) if bound is not None}
    return field(default=default, metadata={"doc": doc, "bounds": bounds, "path": path})


def is_due(step: int, every: int | None, first: int) -> bool:
    """Whether something that happens at multiples of ``every`` from the step ``first`` on happens at ``step``."""
    return every is not None and step >= first and step % every == 0


def anchor(entry: "Field[Any]", value: Any, folder: Path) -> Any:
    """The value of a key; if the key is a path, absolute, with a relative one taken from ``folder``."""
    kind = entry.metadata.get("path")
    if kind is None or value is None or (kind == "code" and not value.endswith(".py")):
        return value
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        raise RecipeError(f"'{entry.name}' cannot be {value!r}: there is no such home folder. Correct it.") from error
    return str(folder.absolute() / path)
