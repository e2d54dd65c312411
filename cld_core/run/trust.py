"""Whether the code that a run's recipe names may run: whoever can write the recipe or the ledger has chosen it."""

from cld_core.config import Recipe
from cld_core.errors import CheckpointError
from cld_core.ownership import shared_with
from cld_core.sanitize import one_line

from .folder import RunFolder


def trusted_recipe(folder: RunFolder, *, allow_plugin: bool = False) -> Recipe:
    """The recipe in force, after importing its plug-ins.

    Args:
        allow_plugin: whether code that others can write may run.

    Raises:
        CheckpointError: as `require_own_plugin`.
        RecipeError: it has a mistake, or a plug-in cannot be imported.
    """
    recipe = folder.recipe()
    if recipe.plugins and not allow_plugin:
        require_own_plugin(folder, recipe)
    return folder.recipe(with_plugins=True) if recipe.plugins else recipe


def require_own_plugin(folder: RunFolder, recipe: Recipe, *, of_hooks: bool = False, of_loggers: bool = False) -> None:
    """Refuse to run the plug-ins of a run whose folder, recipe or ledger somebody else than this user can write.

    Args:
        recipe: the one in force.
        of_hooks: whether `hooks.on_change` would run, too.
        of_loggers: whether the address of a logger would get this user's key.

    Raises:
        CheckpointError: names the plug-in, what others can write, and the option that allows it.
    """
    named = [f"plugins={one_line(', '.join(recipe.plugins))}"] if recipe.plugins else []
    if of_hooks and recipe.hooks.on_change is not None:
        named.append(f"hooks.on_change={one_line(recipe.hooks.on_change)}")
    for text in named:
        _require_own(folder, f"{text} would run code of their choice")
    if of_loggers and (address := recipe.monitor.mlflow.tracking_uri) is not None:
        text = f"monitor.mlflow.tracking_uri={one_line(address)} would get your key of MLflow, if you have one"
        _require_own(folder, text)


def _require_own(folder: RunFolder, danger: str) -> None:
    for path in (folder.path, folder.recipe_file, folder.ledger.path):
        # A link of mine says nothing about what it leads to.
        real = path.resolve()
        if real.exists() and (problem := shared_with(real.stat())) is not None:
            text = f"{problem}, and {danger}"
            fix = f'If you trust it, add --allow-plugin (in Python: cld_core.load("{folder.path}", allow_plugin=True))'
            raise CheckpointError(f"{path}: {text}. {fix}.")
