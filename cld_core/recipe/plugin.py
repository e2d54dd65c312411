"""The user's own code that a recipe names: found when it is submitted, not when the job starts."""

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path

from cld_core.errors import DataError, RecipeError

from .schema import Recipe, ToyDataSpec

_PATHS = ("data.plugin", "data.path", "eval.fid.plugin", "eval.fid.weights", "eval.fid.stats")


def with_plugin_found(recipe: Recipe, recipe_file: Path) -> Recipe:
    """``recipe`` with the path of `data.plugin` made absolute, looked up from here and from the recipe's folder.

    Raises:
        RecipeError: there is no such file or module, or the file is not Python.
    """
    data = recipe.data
    if not isinstance(data, ToyDataSpec) or data.plugin is None:
        return recipe
    plugin = data.plugin
    if not plugin.endswith(".py"):
        if importlib.util.find_spec(plugin.partition(".")[0]) is None:
            text = f"names the module {plugin}, which is not installed. Install it, or give a path ending in .py."
            raise RecipeError(f"{recipe_file}: 'data.plugin' {text}")
        return recipe
    for folder in (Path.cwd(), recipe_file.absolute().parent):
        path = folder / Path(plugin).expanduser()
        if path.is_file():
            _parse(path)
            return dataclasses.replace(recipe, data=dataclasses.replace(data, plugin=str(path.resolve())))
    text = f"names {plugin}, but there is no such file here or beside the recipe. Correct the path."
    raise RecipeError(f"{recipe_file}: 'data.plugin' {text}")


def _parse(path: Path) -> None:
    """Find mistakes of writing; what the code does is seen by the job, which has torch loaded."""
    try:
        ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise RecipeError(f"{path}{line}: the plug-in is not Python ({error}). Mend it.") from error


def with_paths(overrides: list[str]) -> list[str]:
    """Overrides whose paths, such as `data.path`, are absolute, seen from here: jobs may run elsewhere."""
    found = []
    for text in overrides:
        key, _, value = text.partition("=")
        path = Path(value).expanduser()
        if key in _PATHS and path.exists():
            text = f"{key}={path.resolve()}"
        found.append(text)
    return found


def import_plugin(plugin: str, key: str) -> None:
    """Import a Python file, or a module, that the recipe's ``key`` names; once, however often it is asked for.

    Raises:
        DataError: it cannot be imported.
    """
    try:
        if not plugin.endswith(".py"):
            importlib.import_module(plugin)
            return
        path = Path(plugin).expanduser().resolve(strict=True)
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
        module_name = f"cld_plugin_{path.stem}_{digest}"
        if module_name in sys.modules:
            return
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None, f"{path} is no Python file"
        assert spec.loader is not None, f"{path} is no Python file"
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    except DataError:
        raise
    except Exception as error:  # a plug-in is the user's code and may raise anything
        raise DataError(
            f"{key} {plugin!r} cannot be imported: {type(error).__name__}: {error}. "
            "Give the path of a Python file, or a module that is installed."
        ) from error
