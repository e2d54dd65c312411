"""Plug-ins (docs/howto/plug-ins.md): importing them, and the tables that they add to.

There is one table for each kind of object. Tables name implementations as "module:attribute", which
is imported when it is needed. A plug-in is the user's own code, which a recipe names in `plugins`;
it is imported before the recipe is checked, and calls `register`, or decorates a density with
`cld_core.data.toy.toy`.
"""

import contextlib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from .digests import checksum, digest
from .errors import CldError, RecipeError
from .sanitize import one_line

# Tables of variants of a recipe's section, and tables of objects without keys.
SECTIONS = ("data", "sde", "network", "objective", "optim", "sampling")
OTHERS = ("metrics", "rows", "loggers", "extractors", "toys")

# The class of the entries of each table of objects.
_CLASSES = {"metrics": "cld_core.metrics.Metric", "rows": "cld_core.metrics.RowKind"}


@dataclass(frozen=True)
class Variant:
    """A spec (a frozen dataclass) and its implementation: an object, or "module:attribute"."""

    spec: Any
    implementation: str | Callable[..., Any]


_TABLES: dict[str, dict[str, Any]] = {name: {} for name in (*SECTIONS, *OTHERS)}
_SHIPPED: dict[str, frozenset[str]] = dict.fromkeys(_TABLES, frozenset())
# Tables, names and entries in the order in which they were registered.
_REGISTERED: list[tuple[str, str, Any]] = []
# By module of a plug-in, what it registered when it was imported.
_IMPORTED: dict[str, list[tuple[str, str, Any]]] = {}
# By table and name, the plug-in that the entry is from.
_OWNERS: dict[tuple[str, str], str] = {}
# The beginning of the names of modules that are made of files.
_PREFIX = "cld_plugin_"
# The pages in docs/howto about entries of a table, if they are not called own-SECTION.
_PAGES = {
    "data": "own-density",
    "sde": "own-diffusion",
    "optim": "plug-ins",
    "sampling": "plug-ins",
    "metrics": "own-metric",
}


def register(section: str, name: str, implementation: Any, spec: type | None = None) -> None:
    """Register an object under a name for recipes and commands.

    Args:
        section: "data", "sde", "network", "objective", "optim" or "sampling"; or "metrics", "rows",
            "loggers", "extractors" or "toys".
        implementation: the object, or "module:attribute", which is imported when it is needed.
        spec: for sections of a recipe, the frozen dataclass of the section's keys.

    Raises:
        RecipeError: there is no such section, it needs a spec or another type of object, or cldctl
            itself has an entry of this name.
    """
    if section in SECTIONS and (spec is None or not is_dataclass(spec)):
        raise RecipeError(
            f"{section} {name!r} is registered without its spec. Pass the dataclass of its keys."
        )
    if section in _CLASSES and not isinstance(implementation, (str, resolve(_CLASSES[section]))):
        raise RecipeError(
            f"{section} {name!r} is not a {_CLASSES[section]}. Pass one, or where one is: "
            f"'MODULE:NAME'."
        )
    if section not in _TABLES:
        raise RecipeError(
            f"nothing is registered in {section!r}. Choose one of {', '.join(_TABLES)}."
        )
    entry = implementation if spec is None else Variant(spec, implementation)
    if name in _SHIPPED[section] and _TABLES[section][name] != entry:
        raise _taken(section, name)
    _REGISTERED.append((section, name, entry))
    _TABLES[section][name] = entry


def _taken(table: str, name: str) -> RecipeError:
    return RecipeError(
        f"{table} {name!r} is already registered, by cldctl itself. Choose another name."
    )


def table(name: str, shipped: Mapping[str, Any]) -> dict[str, Any]:
    """The table ``name``, with the entries of cldctl before those of plug-ins.

    Raises:
        RecipeError: a plug-in that was imported before has registered one of these names.
    """
    entries = _TABLES[name]
    added = dict(entries)
    for taken in sorted(added.keys() & shipped.keys()):
        if added[taken] != shipped[taken]:
            raise _taken(name, taken)
    entries.clear()
    entries.update(shipped, **added)
    _SHIPPED[name] = frozenset(shipped)
    return entries


def is_shipped(table: str, name: str) -> bool:
    """Whether an entry belongs to cldctl, not to a plug-in."""
    return name in _SHIPPED[table]


def resolve(name: Any) -> Any:
    """The object that "module:attribute" names; the attribute may be dotted.

    Any object that is not a text is returned as it is.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such attribute.
    """
    return pkgutil.resolve_name(name) if isinstance(name, str) else name


def import_plugins(plugins: Sequence[str], place: str) -> None:
    """Import plug-ins, and put their entries into the tables.

    Entries of other versions of these plug-ins, which may have been imported before, are replaced.

    Args:
        place: the file or option that names them, for messages.

    Raises:
        RecipeError: one cannot be imported, or two register the same name.
    """
    owners: dict[tuple[str, str], str] = {}
    for plugin in plugins:
        if "${" in plugin:
            raise RecipeError(
                f"{place}: 'plugins' has {one_line(plugin)!r}. Write it out, without a reference."
            )
        for table, name, entry in _imported(plugin, place):
            if (other := owners.setdefault((table, name), plugin)) != plugin:
                raise RecipeError(
                    f"{place}: {one_line(plugin)} and {one_line(other)} both register the {table} "
                    f"{name!r}. Choose another name."
                )
            _TABLES[table][name] = entry
            _OWNERS[table, name] = plugin


def _imported(plugin: str, place: str) -> list[tuple[str, str, Any]]:
    """The entries that a plug-in registers.

    Copies of a file are the same module; another version of the file is another module.
    """
    before = len(_REGISTERED)
    # stdout is for the data of the command.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if plugin.endswith(".py"):
                name = _import_file(Path(plugin))
            else:
                name = importlib.import_module(plugin).__name__
        except CldError as error:
            raise RecipeError(f"{place}: plug-in {one_line(plugin)}: {error}") from error
        except (Exception, SystemExit) as error:  # user code may raise anything
            reason = one_line(f"{type(error).__name__}: {error}", 300)
            if (where := plugin_line_of(error)) is not None:
                raise RecipeError(
                    f"{place}: plug-in {one_line(plugin)!r} cannot be imported: {reason}. "
                    f"Correct {one_line(where)}."
                ) from error
            raise RecipeError(
                f"{place}: plug-in {one_line(plugin)!r} cannot be imported: {reason}. Give the "
                "path of a Python file, or a module that is installed; two as "
                "'plugins=[a.py, b.py]'."
            ) from error
    return _IMPORTED.setdefault(name, _REGISTERED[before:])


def _import_file(path: Path) -> str:
    path = path.expanduser().resolve(strict=True)
    name = f"{_PREFIX}{path.stem}_{checksum(path)[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None, f"{path} cannot be imported as Python"
        assert spec.loader is not None, f"{path} cannot be imported as Python"
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return name


@contextlib.contextmanager
def trial(key: str, name: str) -> Iterator[None]:
    """A block that uses an entry of a plug-in: its errors name the plug-in.

    Args:
        key: the key of the recipe whose value is ``name``, or the table of the entry.

    Raises:
        RecipeError: the block failed.
    """
    try:
        yield
    except CldError:
        raise
    except Exception as error:  # user code may raise anything
        section = key.partition(".")[0]
        reason = one_line(f"{type(error).__name__}: {error}", 400).removeprefix("ValueError: ")
        reason = reason.rstrip(".")
        if (where := plugin_line_of(error)) is not None:
            reason += f" ({one_line(where)})"
        owner = one_line(_OWNERS.get((section, name), "this process"))
        page = _PAGES.get(section, f"own-{section}")
        raise RecipeError(
            f"'{key}': {name} of {owner} cannot be used: {reason}. Correct it: "
            f"docs/howto/{page}.md describes what is needed."
        ) from error


def plugin_line_of(error: BaseException) -> str | None:
    """FILE:LINE of the innermost frame that is in a plug-in; None if no frame is."""
    # A file that cannot be parsed has no frame in the traceback.
    place = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else None
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__"))
        if name.startswith(_PREFIX) or any(
            name == plugin or name.startswith(f"{plugin}.") for plugin in _IMPORTED
        ):
            place = f"{frame.f_code.co_filename}:{line}"
    return place


def described(value: Any) -> str:
    """A description of an object for messages: its type, and the shape of a tensor."""
    if isinstance(value, tuple):
        return f"({', '.join(map(described, value))})"
    kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    return f"{kind} of shape {tuple(value.shape)}" if hasattr(value, "shape") else kind


def fingerprint_of(named: Iterable[tuple[str, str]]) -> str | None:
    """`fingerprint` of the plug-ins of some entries (table, name); None if all are cldctl's."""
    return fingerprint(list(dict.fromkeys(_OWNERS[entry] for entry in named if entry in _OWNERS)))


def fingerprint(plugins: Sequence[str]) -> str | None:
    """The checksum of a plug-in's file, or the name of its module; of several, a digest of these.

    None without plug-ins.

    Raises:
        RecipeError: a file cannot be read.
    """
    try:
        parts = [checksum(Path(name)) if name.endswith(".py") else name for name in plugins]
    except OSError as error:
        raise RecipeError(
            f"'plugins': {error.filename}: cannot be read ({error.strerror}). Correct the path."
        ) from error
    return digest(parts) if len(parts) > 1 else next(iter(parts), None)
