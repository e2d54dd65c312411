"""Recipes: strict YAML over frozen dataclasses. Loads no torch."""

from .loader import anchored_overrides, dump, dump_changed, from_dict, load, load_frozen, override, with_overrides
from .schema import Recipe

__all__ = [
    "Recipe",
    "anchored_overrides",
    "dump",
    "dump_changed",
    "from_dict",
    "load",
    "load_frozen",
    "override",
    "with_overrides",
]
