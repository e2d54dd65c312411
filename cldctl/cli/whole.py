"""The options of `cldctl` itself, before a command."""

import sys
from typing import Annotated

import typer

from cldctl.show.console import err, out
from cldctl.show.console import verbose as log_calls

_OWN = ("-q", "--quiet", "-v", "--verbose", "--version")


def _version(asked: bool) -> None:
    if asked:
        for line in versions():
            out.print(line)
        raise typer.Exit


def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the versions of cldctl, torch, Python."
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors only; results still go to stdout.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say which programs are called, and how long they take.")
    ] = False,
) -> None:
    """Train and evaluate diffusion models (CLD, PSLD, HOLD, VPSDE) on clusters that preempt you.

    Example: cldctl submit toy --follow
    """
    err.quiet = quiet
    if quiet:
        from cldctl.jobs import process

        process.in_command.quiet = True
    log_calls(verbose)


def reset() -> None:
    """Forget the options of earlier commands in this process."""
    err.quiet = False
    if (process := sys.modules.get("cldctl.jobs.process")) is not None:
        process.in_command.quiet = False
    log_calls(False)


def versions() -> list[str]:
    """The installed versions, one per line. Imports none of the packages."""
    import platform
    from importlib import metadata

    from cld_core.version import __version__

    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "is not installed"
    return [f"cldctl {__version__}", f"torch {torch}", f"Python {platform.python_version()}"]


def is_one(option: str) -> bool:
    """Whether it is an option before the command."""
    return option in _OWN
