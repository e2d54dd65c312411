"""Recipes: strict YAML over frozen dataclasses. Loads no torch."""

from .loading import dump, from_dict, load, override, with_overrides
from .schema import Recipe

__all__ = ["Recipe", "dump", "from_dict", "load", "override", "with_overrides"]
