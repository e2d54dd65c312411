"""Whether the code that a run's recipe names may run: whoever can write the recipe or the ledger has chosen it."""

from cld_core.config import Recipe
from cld_core.config.data import ToyDataSpec
from cld_core.errors import CheckpointError
from cld_core.ownership import shared_with
from cld_core.sanitize import one_line

from .folder import RunFolder


def plugin_of(recipe: Recipe) -> str | None:
    """The code that a recipe's data need."""
    return recipe.data.plugin if isinstance(recipe.data, ToyDataSpec) else None


def require_own_plugin(
    folder: RunFolder, recipe: Recipe, *, of_metrics: bool = False, of_hooks: bool = False, of_loggers: bool = False
) -> None:
    """Refuse to run the plug-ins of a run whose folder, recipe or ledger somebody else than this user can write.

    Args:
        recipe: the one in force.
        of_metrics: whether `eval.fid.plugin` would run, too.
        of_hooks: whether `hooks.on_change` would.
        of_loggers: whether the address of a logger would get this user's key.

    Raises:
        CheckpointError: names the plug-in, what others can write, and the option that allows it.
    """
    fid = recipe.eval.fid
    named = {"data.plugin": plugin_of(recipe), "eval.fid.plugin": fid.plugin if of_metrics else None}
    named["hooks.on_change"] = recipe.hooks.on_change if of_hooks else None
    for key, plugin in named.items():
        if plugin is not None:
            _require_own(folder, f"{key}={one_line(plugin)} would run code of their choice")
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
