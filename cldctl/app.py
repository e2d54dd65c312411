"""The `cldctl` command: its commands in groups, its own options, and errors as one line and an exit
code."""

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
from typer import Option
from typer.core import TyperCommand, TyperGroup

from cld_core.cpu import wait_briefly
from cld_core.errors import CldError
from cld_core.sanitize import one_line
from cld_core.stop import StopFlag

from .show import console
from .show.console import err, out

# The modules of commands, in the order of the help. A command is a public function of its module,
# and has its name: `data_stats` is "data stats", `eval_` is "eval".
_PANELS = {
    "Train": "train",
    "Look": "look",
    "Evaluate and sample": "evaluate",
    "Manage": "manage",
    "Set up": "setup",
}
_GROUPS = {"bench": "Compare what can be done with one checkpoint.", "data": "Prepare image data."}
INTERRUPTED = 130


class _Plain:
    """Help without types of flags, or of arguments whose name says what they are."""

    def get_params(self, ctx: Any) -> list[Any]:
        # That of the class that this one is mixed into.
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            is_named = param.param_type_name == "argument" and param.metavar is not None
            has_no_type = is_named or getattr(param, "is_flag", False)
            # Earlier versions of typer show no such types.
            if has_no_type and hasattr(param, "display_type_rich"):
                param.display_type_rich = lambda ctx: ""
        return params


class _Command(_Plain, TyperCommand):
    """A command of cldctl."""


class _Group(_Plain, TyperGroup):
    """A group of commands of cldctl."""


# Names of files that a shell takes as they are: others could be commands.
_PLAIN = re.compile(r"[\w./+=:][\w./+=:-]*")


def _runs(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    from cld_core.run.folder import is_name, runs_beginning

    return sorted(run.name for run in runs_beginning(_root(ctx), incomplete) if is_name(run.name))


def _groups(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    from cld_core.run.folder import is_name, names_in
    from cld_core.run.groups import GROUPS

    return sorted(filter(is_name, names_in(_root(ctx) / GROUPS)))


def _recipes(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    from cld_core.config.shipped import recipes

    return filter(_PLAIN.fullmatch, recipes())


def _root(ctx: typer.Context) -> Path:
    from cldctl import config

    return Path(ctx.params.get("root") or config.runs_dir())


# What a shell offers for a parameter, by a word of its metavar, such as "RUN | KEY=VALUE".
_COMPLETIONS: dict[str, Callable[[typer.Context, str], Iterable[str]]] = {
    "RUN": _runs,
    "GROUP": _groups,
    "RECIPE": _recipes,
}


def _completion(metavar: str) -> Callable[[typer.Context, str], list[str]] | None:
    """What completes a parameter with this metavar; None if nothing does."""
    kinds = [kind for kind in metavar.split(" | ") if kind in _COMPLETIONS]
    if not kinds:
        return None

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        names: list[str] = []
        for kind in kinds:
            # An error message would stand in the middle of the command line.
            with suppress(Exception):
                names += _COMPLETIONS[kind](ctx, incomplete)
        return [name for name in names if name.startswith(incomplete)]

    return complete


def command_line(words: Sequence[str] = ()) -> typer.Typer:
    """The commands; of modules after the one with the command that ``words`` name, none."""
    named = next((word for word in words if word[:1] not in ("", "-")), None)
    app = typer.Typer(
        name="cldctl",
        cls=_Group,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    groups = {"": app}
    for panel, module in _PANELS.items():
        if named in {command.name for command in app.registered_commands} | groups.keys():
            break
        for command in _commands(importlib.import_module(f"cldctl.cli.{module}")):
            for parameter in inspect.signature(command).parameters.values():
                _configure(parameter)
            group, _, name = command.__name__.strip("_").rpartition("_")
            if group not in groups:
                groups[group] = _add_group(app, group, panel)
            panel_of_command = None if group else panel
            register = groups[group].command(name, cls=_Command, rich_help_panel=panel_of_command)
            register(command)
    return app


def _configure(parameter: inspect.Parameter) -> None:
    """Add what all commands have in common to the `typer.Argument` or `typer.Option` of one."""
    declaration = parameter.default
    declaration.autocompletion = _completion(declaration.metavar or "")
    if isinstance(declaration.default, bool) and not declaration.param_decls:
        # Without a name, typer adds --no-NAME.
        declaration.param_decls = (f"--{parameter.name.replace('_', '-')}",)


def _add_group(app: typer.Typer, name: str, panel: str) -> typer.Typer:
    group = typer.Typer(cls=_Group, no_args_is_help=True)
    # One command alone would take the place of its group.
    group.callback()(lambda: None)
    app.add_typer(group, name=name, help=_GROUPS[name], rich_help_panel=panel)
    return group


def _commands(module: ModuleType) -> Iterator[Callable[..., Any]]:
    """The public functions that a module defines, in their order."""
    for function in filter(inspect.isfunction, vars(module).values()):
        if function.__module__ == module.__name__ and not function.__name__.startswith("_"):
            yield function


def _print_versions(wanted: bool) -> None:
    if not wanted:
        return
    import platform
    from importlib import metadata

    from cld_core.version import __version__

    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "is not installed"
    for line in (f"cldctl {__version__}", f"torch {torch}", f"Python {platform.python_version()}"):
        out.print(line)
    raise typer.Exit


def _options(
    version: bool = Option(
        False,
        "--version",
        callback=_print_versions,
        is_eager=True,
        help="Print the versions of cldctl, torch, Python.",
    ),
    quiet: bool = Option(
        False, "--quiet", "-q", help="Print errors only; results still go to stdout."
    ),
    verbose: bool = Option(
        False, "--verbose", "-v", help="Say which programs are called, and how long they take."
    ),
) -> None:
    """Train and evaluate diffusion models (CLD, PSLD, HOLD, VPSDE) on clusters that preempt you.

    Example: cldctl submit toy --follow
    """
    err.quiet = quiet
    # Commands that start no jobs do not load it.
    if quiet or "cldctl.jobs.process" in sys.modules:
        from cldctl.jobs import process

        process.quiet = quiet
    console.verbose(verbose)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default that of this process; returns the exit code of
    docs/cli.md."""
    StopFlag.interrupted = False
    try:
        words = sys.argv[1:] if arguments is None else list(arguments)
        code = command_line(words)(words, prog_name="cldctl", standalone_mode=False)
        code = code if isinstance(code, int) else 0
        # A training in this process has saved and shown its state before it ends.
        return INTERRUPTED if code and StopFlag.interrupted else code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except CldError as error:
        err.error(str(error))
        return error.exit_code
    except typer.Abort:
        err.print("aborted")
        return 1
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        err.error(f"{place}{error.strerror or error}. Check the path and its permissions.")
        return 1
    except KeyboardInterrupt:
        err.print("interrupted")
        return INTERRUPTED
    except Exception as error:
        return _unforeseen(error)
    return 0


def _unforeseen(error: Exception) -> int:
    """Print what no command expected, wrong usage included; returns the exit code."""
    # typer has its own errors.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        if message := _wrong_usage(error):
            err.error(message)
        return int(error.exit_code)
    if os.environ.get("CLDCTL_DEBUG") == "1":
        err.print("".join(traceback.format_exception(error)), end="")
    from cld_core.plugins import plugin_line_of

    plugin = plugin_line_of(error)
    what = one_line(f"{type(error).__name__}: {error}")
    if plugin is not None:
        err.error(f"plug-in {plugin}: {what}. Correct it; CLDCTL_DEBUG=1 shows the traceback.")
    else:
        err.error(
            f"internal error ({what}). Set CLDCTL_DEBUG=1 to see the traceback, and report it with "
            f"that."
        )
    return 1


def _wrong_usage(error: Any) -> str:
    """typer's own message, and which help to read; empty if the help was shown.

    Args:
        error: one with a ``format_message``, and perhaps the context of a command.
    """
    message = str(error.format_message()).rstrip()
    context = getattr(error, "ctx", None)
    if not message or context is None:
        return message
    end = "" if message.endswith(("?", ".")) else "."
    return f"{message}{end} See `{context.command_path} --help`."


def main() -> None:
    """What the entry point calls: the process ends with the exit code of the command."""
    wait_briefly()
    sys.exit(run())
