"""Whether somebody has changed the frozen recipe of a run by hand: it is in force, and no ledger tells of it."""

import hashlib
from pathlib import Path

from cld_core.errors import RecipeError
from cld_core.small_files import read_bytes

from . import code, pending
from .events import RecipeEdited
from .folder import RunFolder

# What stands for the keys if nobody knows what the recipe was.
UNKNOWN = "unknown keys"


def edited(run: RunFolder) -> tuple[str, ...]:
    """The keys of a run's recipe that are not what they were when it was made; empty for runs of older versions.

    Raises:
        OSError, RecipeError: it cannot be read.
    """
    wanted = run.identity().get("recipe_digest")
    if wanted is None or _digest(run.recipe_file) == wanted:
        return ()
    original = code.folder_of(run.path) / code.RECIPE
    try:
        if _digest(original) != wanted:
            return (UNKNOWN,)
        before = _values(original)
    except (OSError, RecipeError):
        return (UNKNOWN,)
    now = _values(run.recipe_file)
    return tuple(sorted(key for key in {*before, *now} if before.get(key) != now.get(key)))


def note(run: RunFolder, within_s: float = 0.0) -> str | None:
    """Write into the ledger what was edited, if it does not say so yet; returns what to tell people.

    A file system that fails at this moment keeps nothing from starting.
    """
    try:
        keys = edited(run)
    except (OSError, RecipeError):
        return None
    if keys != pending.history(run.ledger).edited:
        pending.append(run.ledger, RecipeEdited(keys=keys), within_s=within_s)
    return f"{run.recipe_file} was edited by hand since the run was made: {', '.join(keys)}" if keys else None


def _digest(file: Path) -> str:
    return hashlib.sha256(read_bytes(file)).hexdigest()


def _values(file: Path) -> dict[str, object]:
    from cld_core.recipe import load_frozen
    from cld_core.recipe.tree import walk

    return {key: value for key, value in walk(load_frozen(file).to_dict()) if not isinstance(value, dict)}
