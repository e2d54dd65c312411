"""Recipes: strict YAML over frozen dataclasses. Loads no torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loader import dump, from_dict, load, load_frozen, override, with_overrides
    from .schema import Recipe

__all__ = ["Recipe", "dump", "from_dict", "load", "load_frozen", "override", "with_overrides"]


def __getattr__(name: str) -> Any:
    # All sections are loaded when a recipe is first needed: `cldctl status` reads one of them.
    if name not in __all__:
        raise AttributeError(f"module 'cld_core.config' has no attribute {name!r}")
    from . import loader

    return getattr(loader, name)
