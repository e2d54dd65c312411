"""Registries name implementations as "module:attribute", which is imported when it is needed."""

import pkgutil
from typing import Any


def resolve(name: Any) -> Any:
    """What "module:attribute" names; the attribute may be dotted. Anything else than a text is what it is.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such attribute.
    """
    return pkgutil.resolve_name(name) if isinstance(name, str) else name
