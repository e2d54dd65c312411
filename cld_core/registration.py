"""What plug-ins register (docs/howto/plug-ins.md), beside what cldctl ships, in one table for each kind of thing.

Tables name implementations as "module:attribute", which is imported when it is needed.
"""

import dataclasses
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import RecipeError

# Sections of a recipe, and what has no keys of its own.
SECTIONS = ("data", "sde", "network", "objective", "sampling")
OTHERS = ("metrics", "rows", "loggers", "extractors", "toys")

# What is registered in them.
_CLASSES = {"metrics": "cld_core.metrics.Metric", "rows": "cld_core.metrics.RowKind"}


@dataclass(frozen=True)
class Variant:
    """A spec (a frozen dataclass), and what implements it: an object, or "module:attribute" of one."""

    spec: type
    implementation: str | Callable[..., Any]


# The table, the name and the entry.
Registration = tuple[str, str, Any]

_TABLES: dict[str, dict[str, Any]] = {name: {} for name in (*SECTIONS, *OTHERS)}
_SHIPPED: dict[str, frozenset[str]] = dict.fromkeys(_TABLES, frozenset())
# All that was registered, in this order.
registered: list[Registration] = []


def register(section: str, name: str, implementation: Any, spec: type | None = None) -> None:
    """Register what a recipe, or a command, may name.

    Args:
        section: "data", "sde", "network", "objective" or "sampling"; or "metrics", "rows", "loggers", "extractors" or
            "toys".
        implementation: what is called, or "module:attribute", which is imported when it is needed.
        spec: of the sections of a recipe, the frozen dataclass of the section's keys.

    Raises:
        RecipeError: there is no such section, it needs a spec or takes no such object, or the name belongs to what
            cldctl ships.
    """
    if section in SECTIONS and (spec is None or not dataclasses.is_dataclass(spec)):
        raise RecipeError(f"{section} {name!r} is registered without its spec. Pass the dataclass of its keys.")
    if section in _CLASSES and not isinstance(implementation, (str, resolve(_CLASSES[section]))):
        raise RecipeError(f"{section} {name!r} is not a {_CLASSES[section]}. Pass one, or where one is: 'MODULE:NAME'.")
    if section not in _TABLES:
        raise RecipeError(f"nothing is registered in {section!r}. Choose one of {', '.join(_TABLES)}.")
    entry = implementation if spec is None else Variant(spec, implementation)
    if name in _SHIPPED[section] and _TABLES[section][name] != entry:
        raise _taken(section, name)
    registered.append((section, name, entry))
    put(section, name, entry)


def _taken(table: str, name: str) -> RecipeError:
    return RecipeError(f"{table} {name!r} is already registered, by cldctl itself. Choose another name.")


def put(table: str, name: str, entry: Any) -> None:
    """Put into force what was registered, in place of what has had its name meanwhile."""
    _TABLES[table][name] = entry


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
    """What "module:attribute" names; the attribute may be dotted. Anything else than a text is what it is.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such attribute.
    """
    return pkgutil.resolve_name(name) if isinstance(name, str) else name
