"""The options of `cldctl` itself, in front of a command."""

import logging
from typing import Annotated

import typer

from cldctl.ui.console import err, out

_LOGGER = logging.getLogger("cldctl")
_OWN = ("-q", "--quiet", "-v", "--verbose", "--version")


def _version(asked: bool) -> None:
    if asked:
        for line in versions():
            out.print(line, soft_wrap=True)
        raise typer.Exit


def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the versions of cldctl, torch, Python."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors; data are printed.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say which programs are called, and how long they take.")
    ] = False,
) -> None:
    """Train and evaluate critically-damped Langevin diffusion on clusters that preempt you.

    Example: cldctl submit toy --follow
    """
    err.quiet = quiet
    if verbose:
        _LOGGER.setLevel(logging.DEBUG)
        _LOGGER.addHandler(_Handler())


def reset() -> None:
    """Forget the options of a command before, in this process."""
    err.quiet = False
    _LOGGER.setLevel(logging.NOTSET)
    for handler in _LOGGER.handlers[:]:
        if isinstance(handler, _Handler):
            _LOGGER.removeHandler(handler)


def versions() -> list[str]:
    """What is installed, a line each. Loads nothing of it."""
    import platform
    from importlib import metadata

    from cld_core.version import __version__

    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "is not installed"
    return [f"cldctl {__version__}", f"torch {torch}", f"Python {platform.python_version()}"]


def is_misplaced(message: str) -> bool:
    """Whether typer complains about an option that goes before the command."""
    return any(message.startswith(f"No such option: {option}") for option in _OWN)


class _Handler(logging.Handler):
    """Writes what is logged to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(record.getMessage(), style="dim", soft_wrap=True)
