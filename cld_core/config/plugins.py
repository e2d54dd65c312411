"""The user's own code that a recipe names in `plugins`, imported before the recipe is checked.

A plug-in calls `cld_core.register`, or decorates a density with `cld_core.data.toy.toy`.
"""

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cld_core.digests import checksum, digest
from cld_core.errors import CldError, RecipeError
from cld_core.registration import Registration, put, registered
from cld_core.sanitize import one_line

from .keys import absolute

# What each module has registered when it was imported.
_IMPORTED: dict[str, list[Registration]] = {}
_FIX = "Give the path of a Python file, or a module that is installed."


def anchored(keys: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The keys of a recipe with `plugins` as a list, of one if it is a text, and paths taken from ``folder``."""
    found = keys.get("plugins")
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list):
        return keys
    paths = [absolute("plugins", name, folder) if str(name).endswith(".py") else name for name in names]
    return keys | {"plugins": paths}


def use(plugins: Sequence[str], place: str) -> None:
    """Import plug-ins, and put what they register in force, also if other versions were imported since.

    Args:
        place: what has named them, for messages.

    Raises:
        RecipeError: one cannot be imported, or two register the same name.
    """
    owners: dict[tuple[str, str], str] = {}
    for plugin in plugins:
        if "${" in plugin:
            raise RecipeError(f"{place}: 'plugins' has {one_line(plugin)!r}. Write it out, without a reference.")
        for table, name, entry in _imported(plugin, place):
            if (other := owners.setdefault((table, name), plugin)) != plugin:
                text = f"{one_line(plugin)} and {one_line(other)} both register the {table} {name!r}"
                raise RecipeError(f"{place}: {text}. Choose another name.")
            put(table, name, entry)


def _imported(plugin: str, place: str) -> list[Registration]:
    """What a plug-in registers. Copies of one file are one module, and another version of the file is another one."""
    before = len(registered)
    # Data on stdout are those of the command.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            name = _import_file(Path(plugin)) if plugin.endswith(".py") else importlib.import_module(plugin).__name__
        except CldError as error:
            raise RecipeError(f"{place}: plug-in {one_line(plugin)}: {error}") from error
        except (Exception, SystemExit) as error:  # user code may raise anything
            reason = one_line(f"{type(error).__name__}: {error}", 300)
            raise RecipeError(f"{place}: plug-in {one_line(plugin)!r} cannot be imported: {reason}. {_FIX}") from error
    return _IMPORTED.setdefault(name, registered[before:])


def _import_file(path: Path) -> str:
    path = path.expanduser().resolve(strict=True)
    name = f"cld_plugin_{path.stem}_{checksum(path)[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None, f"{path} cannot be imported as Python"
        assert spec.loader is not None, f"{path} cannot be imported as Python"
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return name


def raised_in(error: BaseException) -> str | None:
    """The file of the plug-in that raised an error, or called what did; None if there is none."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__") in _IMPORTED:
            found = frame.f_code.co_filename
    return found


def fingerprint(plugins: Sequence[str]) -> str | None:
    """What tells plug-ins from others: of files, what is in them, and of modules, their names; None without any.

    Raises:
        RecipeError: a file cannot be read.
    """
    try:
        parts = [checksum(Path(one)) if one.endswith(".py") else one for one in plugins]
    except OSError as error:
        text = f"'plugins': {error.filename}: cannot be read ({error.strerror})"
        raise RecipeError(f"{text}. Correct the path.") from error
    return digest(parts) if len(parts) > 1 else next(iter(parts), None)
