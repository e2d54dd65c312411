"""Recipes: strict YAML over frozen dataclasses. Loads no torch."""

from .loader import dump, from_dict, load, load_frozen, override, with_overrides
from .schema import Recipe

__all__ = ["Recipe", "dump", "from_dict", "load", "load_frozen", "override", "with_overrides"]
