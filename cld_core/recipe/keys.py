"""A key of a recipe: its default, its bounds, and what the command line says about it."""

from dataclasses import Field, field, fields, is_dataclass
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
    most: float | None = None,
    path: Literal["file", "code"] | None = None,
    added: bool = False,
) -> Any:
    """A recipe key with its default, its one-line description and the bounds of its value.

    Args:
        le: what nothing may be above, whoever wrote it: a run of somebody else is read within it.
        most: the largest value that anybody needs, for what is typed. The recipe of a run that has more is still read.
        path: the value is a path, which `Recipe.anchored` makes absolute. "code": a Python file, or the name of a
            module, which is left alone.
        added: the key is younger than format 2 of runs, and its default is what versions without it did: `identity`.
    """
    lasting = {name: bound for name, bound in (("gt", gt), ("ge", ge), ("lt", lt), ("le", le)) if bound is not None}
    bounds = lasting if most is None else {**lasting, "le": most}
    about = {"doc": doc, "bounds": bounds, "lasting": lasting, "path": path, "added": added}
    return field(default=default, metadata=about)


def identity(spec: Any) -> dict[str, Any]:
    """A spec as nested plain dictionaries, without the keys that were added later and have their default.

    Digests of it stay what they were before those keys were added.
    """
    kept = {
        entry.name: getattr(spec, entry.name)
        for entry in fields(spec)
        if not (entry.metadata.get("added") and getattr(spec, entry.name) == entry.default)
    }
    return {name: identity(value) if is_dataclass(value) else value for name, value in kept.items()}


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
