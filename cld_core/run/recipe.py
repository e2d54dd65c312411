"""The frozen recipe of a run: trust in the code that it names, and changes made by hand.

A recipe names plug-ins and commands, so users who can write it, or the ledger, choose the code that
runs. A recipe that was edited by hand is in force, although the ledger does not have the change.
"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cld_core.digests import checksum
from cld_core.errors import CheckpointError, RecipeError
from cld_core.ownership import shared_with
from cld_core.sanitize import one_line

from .events import Remarked
from .folder import RunFolder

if TYPE_CHECKING:
    from cld_core.config import Recipe

# Stands for the keys if the original recipe is unknown.
UNKNOWN = "unknown keys"


def trusted_recipe(folder: RunFolder, *, allow_plugin: bool = False) -> "Recipe":
    """The recipe in force, after importing its plug-ins.

    Args:
        allow_plugin: whether code that others can write may run.

    Raises:
        CheckpointError: other users can write the run's folder, recipe or ledger, and the recipe
            names plug-ins.
        RecipeError: the recipe has a mistake, or a plug-in cannot be imported.
    """
    recipe = folder.recipe()
    if recipe.plugins and not allow_plugin:
        require_own_plugin(folder, recipe)
    return folder.recipe(with_plugins=True) if recipe.plugins else recipe


def require_own_plugin(
    folder: RunFolder, recipe: "Recipe", *, of_hooks: bool = False, of_loggers: bool = False
) -> None:
    """Refuse to run the plug-ins of a run whose folder, recipe or ledger other users can write.

    Args:
        recipe: the recipe in force.
        of_hooks: whether `hooks.on_change` would also run.
        of_loggers: whether the address of a logger would get this user's key.

    Raises:
        CheckpointError: names the plug-in, the file that others can write, and the option that
            allows it.
    """
    if recipe.plugins:
        plugins = one_line(", ".join(recipe.plugins))
        _require_own(folder, f"plugins={plugins} would run code of their choice")
    if of_hooks and recipe.hooks.on_change is not None:
        command = one_line(recipe.hooks.on_change)
        _require_own(folder, f"hooks.on_change={command} would run code of their choice")
    if of_loggers and (address := recipe.monitor.mlflow.tracking_uri) is not None:
        _require_own(
            folder,
            f"monitor.mlflow.tracking_uri={one_line(address)} would get your key of MLflow, "
            "if you have one",
        )


def _require_own(folder: RunFolder, danger: str) -> None:
    for path in (
        folder.path,
        folder.recipe_file,
        folder.ledger.path,
        folder.submitted_recipe.parent,
    ):
        # The owner and mode of a link are not those of its target.
        real = path.resolve()
        if real.exists() and (problem := shared_with(real.stat())) is not None:
            raise CheckpointError(
                f"{path}: {problem}, and {danger}. If you trust it, add --allow-plugin "
                f'(in Python: cld_core.load("{folder.path}", allow_plugin=True)).'
            )


def seen(run: RunFolder) -> str | None:
    """The edits of the recipe, as a message; None if they cannot be read now."""
    try:
        return ", ".join(edited(run).values())
    except (OSError, RecipeError):
        return None


def edited(run: RunFolder) -> dict[str, str]:
    """The keys of a run's recipe that were edited since the run was made, each with both values.

    Raises:
        OSError, RecipeError: the recipe cannot be read.
    """
    recorded = run.identity().get("recipe_digest")
    if recorded is None or checksum(run.recipe_file) == recorded:
        return {}
    original = None
    # Without the original recipe, it is known that the recipe was edited, but not how.
    with suppress(OSError, RecipeError):
        if checksum(run.submitted_recipe) == recorded:
            original = _values(run.submitted_recipe)
    if original is None:
        return {UNKNOWN: UNKNOWN}
    current = _values(run.recipe_file)
    return {
        key: f"{key} {_shown(key, current)} instead of {_shown(key, original)}"
        for key in sorted({*original, *current})
        if original.get(key) != current.get(key)
    }


def note(run: RunFolder, within_s: float = 0.0) -> str | None:
    """Note edits of the recipe in the ledger; returns a message about them, or None without edits.

    A file system that fails at this moment does not keep a job from starting.
    """
    edits = seen(run)
    if edits is not None and edits != run.ledger.full_history().edited:
        run.ledger.note(Remarked("recipe", what=edits), within_s=within_s)
    if not edits:
        return None
    return f"{run.recipe_file} was edited by hand since the run was made: {edits}"


def _values(file: Path) -> dict[str, object]:
    from cld_core.config import load_frozen
    from cld_core.config.schema import leaves

    return leaves(load_frozen(file).to_dict())


def _shown(key: str, values: dict[str, object]) -> str:
    from cld_core.config.loader import to_yaml_line

    return one_line(to_yaml_line(values[key]), 60) if key in values else "nothing"
