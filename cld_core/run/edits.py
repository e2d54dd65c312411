"""Whether somebody has changed the frozen recipe of a run by hand: it is in force, and no ledger tells of it."""

import hashlib
from pathlib import Path

from cld_core.errors import RecipeError
from cld_core.files import read_bytes
from cld_core.sanitize import one_line

from . import code, pending
from .events import RecipeEdited
from .folder import RunFolder

# What stands for the keys if nobody knows what the recipe was.
UNKNOWN = "unknown keys"


def seen(run: RunFolder) -> tuple[str, ...] | None:
    """What was edited, in words; None if that cannot be found out at this moment."""
    try:
        return tuple(edited(run).values())
    except (OSError, RecipeError):
        return None


def edited(run: RunFolder) -> dict[str, str]:
    """The keys of a run's recipe that are not what they were when it was made, each with both values in words.

    Raises:
        OSError, RecipeError: it cannot be read.
    """
    wanted = run.identity().get("recipe_digest")
    if wanted is None or _digest(run.recipe_file) == wanted:
        return {}
    original = code.folder_of(run.path) / code.RECIPE
    try:
        if _digest(original) != wanted:
            return {UNKNOWN: UNKNOWN}
        before = _values(original)
    except (OSError, RecipeError):
        return {UNKNOWN: UNKNOWN}
    now = _values(run.recipe_file)
    other = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    return {key: f"{key} {_shown(key, now)} instead of {_shown(key, before)}" for key in other}


def note(run: RunFolder, within_s: float = 0.0) -> str | None:
    """Write into the ledger what was edited, if it does not say so yet; returns what to tell people.

    A file system that fails at this moment keeps nothing from starting.
    """
    try:
        found = edited(run)
    except (OSError, RecipeError):
        return None
    texts = tuple(found.values())
    if texts != pending.history(run.ledger).edited:
        pending.append(run.ledger, RecipeEdited(keys=tuple(found), values=texts), within_s=within_s)
    return f"{run.recipe_file} was edited by hand since the run was made: {', '.join(texts)}" if texts else None


def _digest(file: Path) -> str:
    return hashlib.sha256(read_bytes(file)).hexdigest()


def _values(file: Path) -> dict[str, object]:
    from cld_core.config import load_frozen
    from cld_core.config.schema import leaves

    return leaves(load_frozen(file).to_dict())


def _shown(key: str, values: dict[str, object]) -> str:
    from cld_core.config.loader import to_yaml_line

    if key not in values:
        return "nothing"
    value = values[key]
    return one_line(to_yaml_line(value), 60)
