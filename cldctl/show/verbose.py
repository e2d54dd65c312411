"""What `cldctl -v` says: the programs that are called, and how long they take."""

import logging

from .console import err

_LOGGER = logging.getLogger("cldctl")


class _Handler(logging.Handler):
    """Writes what is logged to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(record.getMessage(), style="dim")


def begin() -> None:
    """From now on, say what is logged."""
    end()
    _LOGGER.setLevel(logging.DEBUG)
    _LOGGER.addHandler(_Handler())


def end() -> None:
    """Say nothing more of it."""
    _LOGGER.setLevel(logging.NOTSET)
    for handler in _LOGGER.handlers[:]:
        if isinstance(handler, _Handler):
            _LOGGER.removeHandler(handler)
