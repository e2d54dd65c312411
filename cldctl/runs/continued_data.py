"""Whether a run that continues would train on the data that it has trained on so far."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cld_core.data import presence
from cld_core.digests import checksum
from cld_core.errors import RecipeError
from cld_core.recipe import Recipe
from cld_core.recipe.data import ImageDataSpec
from cld_core.run import RunFolder, code
from cld_core.run.same_data import IMAGES, are_other, known_data

from . import plugins


def check(
    run: RunFolder, recipe: Recipe, *, overrides: Sequence[str] = (), update: bool = False, allowed: bool = False
) -> list[str]:
    """Refuse to continue on other data, before anything is noted; returns warnings, a line each.

    Args:
        recipe: of the continuation; a plug-in of the run's own is its copy.
        overrides: what was typed for this continuation.
        update: the run gets the plug-ins as they are now in place of its copies.
        allowed: somebody wants other data.

    Raises:
        RecipeError: the data are known to be others; names the fix. Or the plug-in cannot be imported, or somebody
            names one that does not register the data.
    """
    said: list[str] = []
    # A run that has always trained beside its plug-in may go on.
    if any(text.partition("=")[0].strip() == "data.plugin" for text in overrides):
        plugins.require_registered(recipe, lambda key: "command line", said.append)
    copies = _copies(run)
    warnings = said if update else [*said, *_changed(run, recipe, copies)]
    now, whose = _data_of(recipe, copies, update)
    if not are_other(now, known_data(run.ledger.history())):
        return warnings
    text = f"{whose} are not those that {run.name} has trained on so far"
    if not allowed:
        fix = "Put back what it was or submit a new run; to train on nevertheless, add --other-data"
        raise RecipeError(f"{text}. {fix}.")
    return [*warnings, f"{text}: from now on it trains on other data"]


def _copies(run: RunFolder) -> dict[str, code.Plugin]:
    """The run's own copies of plug-in files, by their paths."""
    folder = code.folder_of(run.path)
    manifest = code.read(folder)
    if manifest is None:
        return {}
    return {str(code.place(folder, manifest) / plugin.file): plugin for plugin in manifest.plugins}


def _changed(run: RunFolder, recipe: Recipe, copies: Mapping[str, code.Plugin]) -> list[str]:
    """A line for each plug-in that has become another file since the run took its copy."""
    used = [copies[path] for path in code.plugin_paths(recipe).values() if path in copies]
    changed = [plugin.path for plugin in used if _is_other(plugin)]
    fix = f"`cldctl resume {run.name} --update-code` takes the new one"
    return [f"{path} has changed since it was copied; {run.name} goes on with its own copy ({fix})" for path in changed]


def _is_other(plugin: code.Plugin) -> bool:
    try:
        return checksum(Path(plugin.path)) != plugin.sha256
    except OSError:
        return False


def _data_of(recipe: Recipe, copies: Mapping[str, code.Plugin], update: bool) -> tuple[Mapping[str, str], str]:
    """What tells the data from others, and what messages call them; empty if nobody need ask.

    A plug-in's data need a process that imports it: not if it is the run's own copy.
    """
    data = recipe.data
    if isinstance(data, ImageDataSpec):
        return {IMAGES: presence.fingerprint(data, "train")}, f"the images in {data.path}"
    plugin = data.plugin
    if plugin is None or (plugin in copies and not update):
        return {}, ""
    if plugin in copies and os.path.isfile(copies[plugin].path):
        plugin = copies[plugin].path
    report = plugins.ask(plugin, data.name)
    if report.problem is not None and not report.unknown and recipe.cluster.container is None:
        raise RecipeError(f"{report.problem}")
    return report.data or {}, f"the data of {data.name}, as {plugin} makes them,"
