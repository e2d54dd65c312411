"""The `cldctl` command: its commands in groups, its own options, and errors as one line and an exit
code.

Shell completion offers names of runs, recipes and keys, and the words that options take. A shell
waits for it. What a word may be is known from the metavar of an argument ("RUN | KEY=VALUE"), or
from the name of an option. Paths are left to the shell.
"""

import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import TYPE_CHECKING, Any

import typer
from typer import Option
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo

from cld_core import cpu
from cld_core.errors import CldError
from cld_core.sanitize import one_line
from cld_core.stop import StopFlag

from .cli import evaluate, look, manage, options, setup, train
from .show import console
from .show.console import err, out

if TYPE_CHECKING:
    from cld_core.run import RunFolder

# In the order of the help. A command is a public function of its module, and is called as that is:
# `data_stats` is "data stats", `eval_` is "eval".
_PANELS = {
    "Train": train,
    "Look": look,
    "Evaluate and sample": evaluate,
    "Manage": manage,
    "Set up": setup,
}
_GROUPS = {"bench": "Compare what can be done with one checkpoint.", "data": "Prepare image data."}
INTERRUPTED = 130
_OWN_OPTIONS = ("-q", "--quiet", "-v", "--verbose", "--version")


class _Plain:
    """Help without types of flags, or of arguments whose name says what they are."""

    def get_params(self, ctx: Any) -> list[Any]:
        # That of the class that this one is mixed into.
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            is_named = param.param_type_name == "argument" and param.metavar is not None
            # Earlier versions of typer show no such types.
            if (is_named or getattr(param, "is_flag", False)) and hasattr(
                param, "display_type_rich"
            ):
                param.display_type_rich = lambda ctx: ""
        return params


class _Command(_Plain, TyperCommand):
    """A command of cldctl."""


class _Group(_Plain, TyperGroup):
    """A group of commands of cldctl."""


# Of more runs, a shell asks whether it is to list them.
_MOST = 500
# Names of files that a shell takes as they are: others could be commands.
_PLAIN = re.compile(r"[\w./+=:][\w./+=:-]*")
# Of other commands, all sections can be changed.
_OF_EVALUATIONS = ("eval", "sampling", "ema", "cluster")
_SECTIONS = {
    "sample": ("sampling", "ema"),
    **dict.fromkeys(("eval", "samplers", "tune"), _OF_EVALUATIONS),
}


def completer(name: str, about: Any) -> Callable[[typer.Context, str], list[str]] | None:
    """What completes a parameter, if anything does; an error amid a command line would not help,
    and is not shown.

    Args:
        about: its `typer.Argument` or `typer.Option`.
    """
    kinds = (about.metavar or "").split(" | ") if isinstance(about, ArgumentInfo) else [name]
    if not any(kind in _OFFERED for kind in kinds):
        return None

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        found: list[str] = []
        for kind in kinds:
            with suppress(Exception):
                words = _OFFERED[kind]
                found += (
                    _listed(words, incomplete) if isinstance(words, str) else words(ctx, incomplete)
                )
        # bash makes "=" a word of its own.
        return [word for word in dict.fromkeys(found) if word.startswith(incomplete.lstrip("="))]

    return complete


def _listed(place: str, incomplete: str) -> Iterator[str]:
    """Words from a list, of which several may be given with commas between them."""
    before, comma, _ = incomplete.rpartition(",")
    words = resolve_name(place)
    for word in filter(_PLAIN.fullmatch, words() if callable(words) else words):
        if word not in before.split(","):
            yield f"{before}{comma}{word}"


def _runs(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Names of runs, the newest first."""
    from cld_core.run import RunFolder
    from cld_core.run.folder import is_name

    if _words(ctx)[-1:] == ["="]:
        return
    entries = [
        it
        for it in _root(ctx).iterdir()
        if it.name.startswith(incomplete) and is_name(it.name) and it.exists()
    ]
    newest = sorted(entries, key=lambda entry: entry.stat().st_mtime, reverse=True)[:_MOST]
    yield from (entry.name for entry in newest if RunFolder(entry).exists)


def _folders(parent: Path) -> Iterable[str]:
    from cld_core.run.folder import is_name

    return filter(is_name, sorted(entry.name for entry in parent.iterdir()))


def _overrides(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """KEY= or, after it, values: where the shell splits words at "=", these alone."""
    from cld_core.config import describe

    keys, words = describe.keys(), _words(ctx)
    before = next((word for word in reversed(words) if word != "="), "")
    key, equals, _ = incomplete.partition("=")
    if key and equals:
        yield from (f"{key}={value}" for value in _values(keys[key]))
    elif before in keys and ("=" in words[-1:] or incomplete in ("", "=")):
        yield from _values(keys[before])
    else:
        sections = _SECTIONS.get(ctx.info_name or "") or describe.sections()
        yield from _keys(
            {key: it for key, it in keys.items() if key.partition(".")[0] in sections}, incomplete
        )


def _keys(keys: Mapping[str, Any], incomplete: str) -> Iterator[str]:
    """The sections, or the keys in the only section that is meant."""
    found = [key for key in keys if "." in key and key.startswith(incomplete)]
    sections = dict.fromkeys(f"{key.partition('.')[0]}." for key in found)
    if "." not in incomplete and len(sections) > 1:
        yield from sections
        return
    yield from (f"{key}=" for key in found)
    if len(found) == 1:
        # A second one keeps the shell from writing a space behind the only one.
        yield f"{found[0]}={_values(keys[found[0]])[-1]}"


def _values(meanings: Iterable[Any]) -> list[str]:
    from cld_core.config.loader import to_yaml_line

    values = [
        *(option for it in meanings for option in it.options),
        *(to_yaml_line(it.usual) for it in meanings),
    ]
    return list(dict.fromkeys(value.replace(", ", ",") for value in values))


def _explained(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """Names of sections, and then of keys and variants."""
    from cld_core.config import describe
    from cld_core.config.registry import SECTIONS

    names = [*describe.sections(), *describe.keys()]
    names += [
        f"{name}.{variant}" for name, section in SECTIONS.items() for variant in section.variants
    ]
    top = [name for name in names if "." not in name and name.startswith(incomplete)]
    return top if len(top) > 1 else names


def _checkpoints(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    # It is always right, even if the word before is the name of a group.
    yield "last"
    yield from map(str, reversed(_run(ctx).checkpoint_steps()))


def _variants(section: str, of: type = object) -> Iterable[str]:
    from cld_core.config.registry import SECTIONS

    return [name for name, it in SECTIONS[section].variants.items() if issubclass(it.spec, of)]


def _data_sets(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """Sets of images that can be prepared."""
    from cld_core.config.data import ImageDataSpec

    return _variants("data", ImageDataSpec)


# What offers the words, or where a list of them is; importing all lists would take a shell too
# long.
_OFFERED: dict[str, str | Callable[[typer.Context, str], Iterable[str]]] = {
    "RUN": _runs,
    "GROUP": lambda ctx, _: _folders(_root(ctx) / ".groups"),
    "KEY=VALUE": _overrides,
    "SECTION": _explained,
    "NAME": _data_sets,
    "sweep": _overrides,
    "group": lambda ctx, _: _folders(_root(ctx) / ".groups"),
    "checkpoint": _checkpoints,
    "from_step": _checkpoints,
    "evaluation": lambda ctx, _: _folders(_run(ctx).evals),
    "method": lambda ctx, _: _variants("sampling"),
    "metrics": "cld_core.metrics:METRICS",
    "metric": "cld_core.metrics:METRICS",
    "state": "cld_core.run.state:STATES",
    "sort": "cldctl.runs.selection:ORDERS",
    "cluster": "cldctl.clusters:CLUSTERS",
    "sampler": "cldctl.evals.samplers:SETTINGS",
    "RECIPE": "cld_core.config.shipped:recipes",
    "recipe": "cld_core.config.shipped:recipes",
    "profile": "cldctl.lookup:profile_files",
}


def _root(ctx: typer.Context) -> Path:
    from cldctl import config

    return Path(ctx.params.get("root") or config.runs_dir())


def _words(ctx: typer.Context) -> list[str]:
    """The words before the one that is typed, in their order: a recipe or runs, and overrides."""
    given = [
        ctx.params.get(name) or () for name in ("recipe", "name", "words", "names", "overrides")
    ]
    # The last are what could not be parsed, because a value is still missing.
    return [
        str(word)
        for value in (*given, ctx.args)
        for word in ([value] if isinstance(value, str) else value)
    ]


def _run(ctx: typer.Context) -> "RunFolder":
    """The run that is named, perhaps by the beginning of its name, or the newest."""
    name = next((word for word in _words(ctx) if "=" not in word), None)
    # A shell wants words, and not which run is meant.
    with redirect_stderr(StringIO()):
        return options.find_run(name, _root(ctx))


def _app() -> typer.Typer:
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
        for command in _commands(module):
            for parameter in inspect.signature(command).parameters.values():
                about = parameter.default
                about.autocompletion = completer(parameter.name, about)
                if isinstance(about.default, bool) and not about.param_decls:
                    # Of itself, typer would add --no-NAME.
                    about.param_decls = (f"--{parameter.name.replace('_', '-')}",)
            group, _, name = command.__name__.strip("_").rpartition("_")
            if group not in groups:
                groups[group] = typer.Typer(cls=_Group, no_args_is_help=True)
                # One command alone would take the place of its group.
                groups[group].callback()(lambda: None)
                app.add_typer(groups[group], name=group, help=_GROUPS[group], rich_help_panel=panel)
            groups[group].command(name, cls=_Command, rich_help_panel=None if group else panel)(
                command
            )
    return app


def _commands(module: ModuleType) -> list[Callable[..., Any]]:
    functions = filter(inspect.isfunction, vars(module).values())
    return [
        it
        for it in functions
        if it.__module__ == module.__name__ and not it.__name__.startswith("_")
    ]


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


app = _app()


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default that of this process; returns the exit code of
    docs/cli.md."""
    StopFlag.interrupted = False
    try:
        words = None if arguments is None else list(arguments)
        code = app(words, prog_name="cldctl", standalone_mode=False)
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
    """Say what no command expected; returns the exit code. Wrong usage is among it: typer has its
    own errors."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        if message := _wrong_usage(error):
            err.error(message)
        return int(error.exit_code)
    if os.environ.get("CLDCTL_DEBUG") == "1":
        err.print("".join(traceback.format_exception(error)), end="")
    from cld_core.registration import raised_in

    plugin, what = raised_in(error), one_line(f"{type(error).__name__}: {error}")
    text = (
        f"internal error ({what}). Set CLDCTL_DEBUG=1 to see the traceback, and report it with "
        f"that."
    )
    err.error(
        text
        if plugin is None
        else f"plug-in {plugin}: {what}. Correct it; CLDCTL_DEBUG=1 shows the traceback."
    )
    return 1


_NO_OPTION = "No such option: "
_KEY = re.compile(r"--([a-z]\w*(?:\.\w+)+)")
# What a value should be, by the type of what typer's validation finds. Earlier versions of typer
# say it themselves.
_EXPECTED = {
    "int_parsing": "a whole number is expected",
    "int_parsing_size": "a smaller number is expected",
    "int_from_float": "a whole number is expected",
    "float_parsing": "a number is expected",
    "finite_number": "a finite number is expected",
    "greater_than_equal": "at least {ge} is expected",
    "less_than_equal": "at most {le} is expected",
}


def _wrong_usage(error: Any) -> str:
    """The message for an error of typer: names the option, its value and what is expected.

    Args:
        error: one with a ``format_message``, and perhaps the context of a command.
    """
    context = getattr(error, "ctx", None)
    message = _about_value(error) or str(error.format_message())
    if message.startswith(_NO_OPTION):
        option = message.removeprefix(_NO_OPTION).split()[0].rstrip(".")
        if option in _OWN_OPTIONS:
            command = (
                context.command_path.removeprefix("cldctl ") if context is not None else "status"
            )
            message = (
                f"{_NO_OPTION}{option}: it goes before the command, as in `cldctl {option} "
                f"{command}`"
            )
        elif (key := _KEY.fullmatch(option.partition("=")[0])) is not None:
            message = f"{_NO_OPTION}{option}: keys of a recipe have no dashes. Write {key[1]}=VALUE"
    if message and context is not None:
        end = "" if message.endswith(("?", ".")) else "."
        message = f"{message.rstrip()}{end} See `{context.command_path} --help`."
    return message


def _about_value(error: Any) -> str | None:
    """What is wrong with the value of an option; None to use typer's own message."""
    found, names = (
        getattr(error.__cause__, "errors", None),
        getattr(getattr(error, "param", None), "opts", ()),
    )
    problem = found()[0] if callable(found) and names else {}
    expected = _EXPECTED.get(problem.get("type", ""))
    if expected is None:
        return None
    numbers = {
        name: f"{bound:,}"
        for name, bound in problem.get("ctx", {}).items()
        if isinstance(bound, int | float)
    }
    return (
        f"{' / '.join(names)} {one_line(str(problem['input']), 40)}: {expected.format(**numbers)}"
    )


def main() -> None:
    """What the entry point calls: the process ends with the exit code of the command."""
    cpu.wait_briefly()
    sys.exit(run())
