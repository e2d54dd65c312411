"""Registries name implementations as "module:attribute", which is imported when it is needed."""

import importlib
from typing import Any


def resolve(name: str) -> Any:
    """What "module:attribute" names; the attribute may be dotted.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such attribute.
    """
    module, _, attribute = name.partition(":")
    value: Any = importlib.import_module(module)
    for part in attribute.split("."):
        value = getattr(value, part)
    return value
