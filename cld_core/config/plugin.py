"""The user's own code that a recipe names: checked at submission, imported by the job."""

import ast
import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from cld_core.digests import checksum
from cld_core.errors import DataError, RecipeError, did_you_mean
from cld_core.sanitize import one_line

from .data import ToyDataSpec
from .schema import Recipe
from .variants import names as shipped_names

# Names that a message lists.
_MOST_NAMES = 12


def with_plugin_found(recipe: Recipe, recipe_file: Path, place: str | None = None) -> Recipe:
    """``recipe`` with `data.plugin` absolute: a file in the working directory, or else beside the recipe.

    Args:
        place: what has set the key, for messages; default: the file.

    Raises:
        RecipeError: there is no such file or module, or the file is not Python.
    """
    plugin = recipe.data.plugin if isinstance(recipe.data, ToyDataSpec) else None
    if plugin is None:
        return recipe
    if not plugin.endswith(".py"):
        if not _is_installed(plugin):
            text = f"names the module {plugin}, which is not installed. Install it, or give a path ending in .py."
            raise RecipeError(f"{place or recipe_file}: 'data.plugin' {text}")
        return recipe
    for folder in (Path.cwd(), recipe_file.absolute().parent):
        data = recipe.anchored(folder).data
        assert isinstance(data, ToyDataSpec), "a path has changed, not the kind of data"
        if os.path.isfile(str(data.plugin)):
            _parse(Path(str(data.plugin)))
            return dataclasses.replace(recipe, data=data)
    text = f"names {plugin}, but there is no such file here or beside the recipe. Correct the path."
    raise RecipeError(f"{place or recipe_file}: 'data.plugin' {text}")


def require_name_from(
    plugin: str, name: str, registered: Sequence[str], place: Callable[[str], str], swept: Collection[str] = ()
) -> None:
    """Refuse a plug-in beside data that do not come from it: the run would train as if it were not there.

    Args:
        name: of the data, as `data.name` has it.
        registered: the names that the plug-in registers.
        place: what has set a dotted key, for messages.
        swept: the values of `data.name` in a sweep over it: shipped data may stand beside those of the plug-in.

    Raises:
        RecipeError: names the plug-in, what it registers, and the fix.
    """
    is_shipped = name in shipped_names("data")
    if name in registered or (is_shipped and not set(swept).isdisjoint(registered)):
        return
    known = ", ".join(one_line(one, 60) for one in registered[:_MOST_NAMES]) or "no data set"
    if not is_shipped:
        fix = did_you_mean(name, registered) or " Register it, or write the name of one that is."
        text = f"'data.name' cannot be {one_line(name, 60)!r}: {plugin} registers {known}"
        raise RecipeError(f"{place('data.name')}: {text}.{fix}")
    if swept:
        text = f"{plugin} registers {known}, but no value of 'data.name' comes from it"
        add = f"Add {one_line(registered[0], 60)} to the values" if registered else "Register one of them in it"
    else:
        text = f"{plugin} registers {known}, but 'data.name' is {name!r}, which does not come from it"
        add = f"Add data.name={one_line(registered[0], 60)}" if registered else "Register a data set in it"
    raise RecipeError(f"{place('data.plugin')}: {text}. {add}, or set data.plugin=null.")


def _is_installed(module: str) -> bool:
    """Whether a module of this name can be looked for, and its package found. Nothing of it is imported."""
    if not all(part.isidentifier() for part in module.split(".")):
        return False
    package = module.partition(".")[0]
    try:
        # Of a process that was started with `python -m`, __main__ looks like a module from a file.
        return package != "__main__" and importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # ValueError: a module that is not from a file
        return False


def _parse(path: Path) -> None:
    """Refuse syntax errors; other mistakes show when the job, which loads torch, imports the file."""
    try:
        ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise RecipeError(f"{path}{line}: the plug-in is not Python ({error}). Fix it.") from error


def import_plugin(plugin: str, key: str) -> str:
    """Import the Python file or module that the recipe's ``key`` names, unless it has been imported.

    Returns:
        The name of its module. Copies of one file are one module, and another version of the file is another one.

    Raises:
        DataError: it cannot be imported.
    """
    try:
        if not plugin.endswith(".py"):
            importlib.import_module(plugin)
            return plugin
        path = Path(plugin).expanduser().resolve(strict=True)
        module_name = f"cld_plugin_{path.stem}_{checksum(path)[:16]}"
        if module_name in sys.modules:
            return module_name
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None, f"{path} cannot be imported as Python"
        assert spec.loader is not None, f"{path} cannot be imported as Python"
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
        return module_name
    except DataError:
        raise
    except Exception as error:  # user code may raise anything
        raise DataError(
            f"{key} {plugin!r} cannot be imported: {type(error).__name__}: {error}. "
            "Give the path of a Python file, or a module that is installed."
        ) from error
