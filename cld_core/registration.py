"""Plug-ins (docs/howto/plug-ins.md): what they register, beside what cldctl ships, and how they are
imported.

There is one table for each kind of thing. Tables name implementations as "module:attribute", which
is imported when it is needed. A plug-in is the user's own code, which a recipe names in `plugins`;
it is imported before the recipe is checked, and calls `register`, or decorates a density with
`cld_core.data.toy.toy`.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .digests import checksum, digest
from .errors import CldError, RecipeError
from .sanitize import one_line

# Sections of a recipe, and what has no keys of its own.
SECTIONS = ("data", "sde", "network", "objective", "optim", "sampling")
OTHERS = ("metrics", "rows", "loggers", "extractors", "toys")

# What is registered in them.
_CLASSES = {"metrics": "cld_core.metrics.Metric", "rows": "cld_core.metrics.RowKind"}


@dataclass(frozen=True)
class Variant:
    """A spec (a frozen dataclass), and what implements it: an object, or "module:attribute" of
    one."""

    spec: type
    implementation: str | Callable[..., Any]


_TABLES: dict[str, dict[str, Any]] = {name: {} for name in (*SECTIONS, *OTHERS)}
_SHIPPED: dict[str, frozenset[str]] = dict.fromkeys(_TABLES, frozenset())
# All that was registered, in this order: the table, the name and the entry.
_REGISTERED: list[tuple[str, str, Any]] = []
# What each plug-in has registered when it was imported.
_IMPORTED: dict[str, list[tuple[str, str, Any]]] = {}
# The plug-in that each table and name in force is of.
_OWNERS: dict[tuple[str, str], str] = {}
# The modules of files.
_PREFIX = "cld_plugin_"
_FIX = (
    "Give the path of a Python file, or a module that is installed; two as 'plugins=[a.py, b.py]'."
)
# The pages that say what a plug-in has to be, where they are not called own-SECTION.
_PAGES = {
    "data": "own-density",
    "sde": "own-diffusion",
    "optim": "plug-ins",
    "sampling": "plug-ins",
    "metrics": "own-metric",
}


def register(section: str, name: str, implementation: Any, spec: type | None = None) -> None:
    """Register what a recipe, or a command, may name.

    Args:
        section: "data", "sde", "network", "objective", "optim" or "sampling"; or "metrics", "rows",
            "loggers", "extractors" or "toys".
        implementation: what is called, or "module:attribute", which is imported when it is needed.
        spec: of the sections of a recipe, the frozen dataclass of the section's keys.

    Raises:
        RecipeError: there is no such section, it needs a spec or takes no such object, or the name
            belongs to what cldctl ships.
    """
    if section in SECTIONS and (spec is None or not dataclasses.is_dataclass(spec)):
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
    """A table that plug-ins add to, with what cldctl ships in front.

    Raises:
        RecipeError: a plug-in, which was imported first, has taken a name of these.
    """
    entries = _TABLES[name]
    added = {**entries}
    for taken in sorted(added.keys() & shipped.keys()):
        if added[taken] != shipped[taken]:
            raise _taken(name, taken)
    entries.clear()
    entries.update(shipped, **added)
    _SHIPPED[name] = frozenset(shipped)
    return entries


def is_shipped(table: str, name: str) -> bool:
    """Whether a name belongs to what cldctl ships, not to a plug-in."""
    return name in _SHIPPED[table]


def resolve(name: Any) -> Any:
    """What "module:attribute" names; the attribute may be dotted. Anything else than a text is what
    it is.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such attribute.
    """
    return pkgutil.resolve_name(name) if isinstance(name, str) else name


def import_plugins(plugins: Sequence[str], place: str) -> None:
    """Import plug-ins, and put what they register in force, also if other versions were imported
    since.

    Args:
        place: what has named them, for messages.

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
                text = (
                    f"{one_line(plugin)} and {one_line(other)} both register the {table} {name!r}"
                )
                raise RecipeError(f"{place}: {text}. Choose another name.")
            # In place of what has had its name meanwhile.
            _TABLES[table][name], _OWNERS[table, name] = entry, plugin


def _imported(plugin: str, place: str) -> list[tuple[str, str, Any]]:
    """What a plug-in registers. Copies of one file are one module, and another version of the file
    is another one."""
    before = len(_REGISTERED)
    # Data on stdout are those of the command.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            name = (
                _import_file(Path(plugin))
                if plugin.endswith(".py")
                else importlib.import_module(plugin).__name__
            )
        except CldError as error:
            raise RecipeError(f"{place}: plug-in {one_line(plugin)}: {error}") from error
        except (Exception, SystemExit) as error:  # user code may raise anything
            reason = one_line(f"{type(error).__name__}: {error}", 300)
            where = raised_in(error)
            if where is None and isinstance(error, SyntaxError):
                where = f"{error.filename}:{error.lineno}"
            fix = _FIX if where is None else f"Correct {one_line(where)}."
            raise RecipeError(
                f"{place}: plug-in {one_line(plugin)!r} cannot be imported: {reason}. {fix}"
            ) from error
    return _IMPORTED.setdefault(name, _REGISTERED[before:])


def _import_file(path: Path) -> str:
    path = path.expanduser().resolve(strict=True)
    name = f"{_PREFIX}{path.stem}_{checksum(path)[:16]}"
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


@contextlib.contextmanager
def trial(key: str, name: str) -> Iterator[None]:
    """A try of what a plug-in has registered: what the block raises is put down to it.

    Args:
        key: of the recipe, whose value is ``name``, or the table that has it.

    Raises:
        RecipeError: the block failed.
    """
    try:
        yield
    except CldError:
        raise
    except Exception as error:  # user code may raise anything
        section, where = key.partition(".")[0], raised_in(error)
        reason = (
            one_line(f"{type(error).__name__}: {error}", 400)
            .removeprefix("ValueError: ")
            .rstrip(".")
        )
        reason += "" if where is None else f" ({one_line(where)})"
        text = (
            f"'{key}': {name} of {one_line(_OWNERS.get((section, name), 'this process'))} "
            f"cannot be used: {reason}"
        )
        page = _PAGES.get(section, f"own-{section}")
        raise RecipeError(
            f"{text}. Correct it: docs/howto/{page}.md says what it has to be."
        ) from error


def raised_in(error: BaseException) -> str | None:
    """FILE:LINE of the plug-in that raised an error, or called what did; None if there is none."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__"))
        if name.startswith(_PREFIX) or any(
            name == plugin or name.startswith(f"{plugin}.") for plugin in _IMPORTED
        ):
            found = f"{frame.f_code.co_filename}:{line}"
    return found


def described(value: Any) -> str:
    """What a plug-in has returned, in messages: its type, and the shape of a tensor."""
    if isinstance(value, tuple):
        return f"({', '.join(map(described, value))})"
    kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    return f"{kind} of shape {tuple(value.shape)}" if hasattr(value, "shape") else kind


def fingerprint_of(named: Iterable[tuple[str, str]]) -> str | None:
    """`fingerprint` of the plug-ins that have registered these names of tables; None if none
    has."""
    return fingerprint(list(dict.fromkeys(_OWNERS[one] for one in named if one in _OWNERS)))


def fingerprint(plugins: Sequence[str]) -> str | None:
    """What tells plug-ins from others: of files, what is in them, and of modules, their names; None
    without any.

    Raises:
        RecipeError: a file cannot be read.
    """
    try:
        parts = [checksum(Path(one)) if one.endswith(".py") else one for one in plugins]
    except OSError as error:
        raise RecipeError(
            f"'plugins': {error.filename}: cannot be read ({error.strerror}). Correct the path."
        ) from error
    return digest(parts) if len(parts) > 1 else next(iter(parts), None)
