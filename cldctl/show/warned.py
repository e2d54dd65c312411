"""What the library warns of, as the command line shows it."""

import contextlib
import logging
from collections.abc import Iterator

from .console import err

_LOGGER = logging.getLogger("cld_core")


class _Handler(logging.Handler):
    """Writes what is logged to stderr, as a warning."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(f"warning: {record.getMessage()}", style="yellow")


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Show what `cld_core` warns of."""
    handler = _Handler(logging.WARNING)
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
