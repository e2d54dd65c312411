"""A key of a recipe: its default, and what the command line says of it."""

from dataclasses import field
from pathlib import Path
from typing import Any


def key(
    default: Any,
    doc: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> Any:
    """A recipe key with its default, its one-line description and the bounds of its value."""
    bounds = {name: bound for name, bound in (("gt", gt), ("ge", ge), ("lt", lt), ("le", le)) if bound is not None}
    return field(default=default, metadata={"doc": doc, "bounds": bounds})


def under(folder: Path, path: str) -> str:
    """``path``, taken from ``folder`` where it is relative."""
    return str(folder.absolute() / Path(path).expanduser())
