"""Registries name implementations as "module:attribute", which is imported when it is needed."""

import importlib
from typing import Any


def resolve(name: Any) -> Any:
    """What "module:attribute" names; the attribute may be dotted. Anything else than a text is what it is.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such attribute.
    """
    if not isinstance(name, str):
        return name
    module, _, attribute = name.partition(":")
    value: Any = importlib.import_module(module)
    for part in attribute.split("."):
        value = getattr(value, part)
    return value
