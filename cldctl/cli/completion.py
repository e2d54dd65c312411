"""Shell completion: names of runs, recipes and keys, and the words that options take. A shell waits for it.

What a word may be is known from the metavar of an argument ("RUN | KEY=VALUE"), or from the name of an option. Paths
are left to the shell.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import typer
from typer.models import ArgumentInfo

from . import options

if TYPE_CHECKING:
    from cld_core.run import RunFolder

# Of more runs, a shell asks whether it is to list them.
_MOST = 500
# Names of files that a shell takes as they are: others could be commands.
_PLAIN = re.compile(r"[\w./+=:][\w./+=:-]*")
# Of other commands, all sections can be changed.
_OF_EVALUATIONS = ("eval", "sampling", "ema", "cluster")
_SECTIONS = {"sample": ("sampling", "ema"), **dict.fromkeys(("eval", "samplers", "tune"), _OF_EVALUATIONS)}


def completer(name: str, about: Any) -> Callable[[typer.Context, str], list[str]] | None:
    """What completes a parameter, if anything does; an error amid a command line would not help, and is not shown.

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
                found += _listed(words, incomplete) if isinstance(words, str) else words(ctx, incomplete)
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
    entries = [it for it in _root(ctx).iterdir() if it.name.startswith(incomplete) and is_name(it.name) and it.exists()]
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
        yield from _keys({key: it for key, it in keys.items() if key.partition(".")[0] in sections}, incomplete)


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

    values = [*(option for it in meanings for option in it.options), *(to_yaml_line(it.usual) for it in meanings)]
    return list(dict.fromkeys(value.replace(", ", ",") for value in values))


def _explained(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """Names of sections, and then of keys and variants."""
    from cld_core.config import describe
    from cld_core.config.registry import SECTIONS

    names = [*describe.sections(), *describe.keys()]
    names += [f"{name}.{variant}" for name, section in SECTIONS.items() for variant in section.variants]
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


# What offers the words, or where a list of them is; importing all lists would take a shell too long.
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
    "state": "cldctl.runs.state:STATES",
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
    given = [ctx.params.get(name) or () for name in ("recipe", "name", "words", "names", "overrides")]
    # The last are what could not be parsed, because a value is still missing.
    return [str(word) for value in (*given, ctx.args) for word in ([value] if isinstance(value, str) else value)]


def _run(ctx: typer.Context) -> "RunFolder":
    """The run that is named, perhaps by the beginning of its name, or the newest."""
    name = next((word for word in _words(ctx) if "=" not in word), None)
    # A shell wants words, and not which run is meant.
    with redirect_stderr(StringIO()):
        return options.find_run(name, _root(ctx))
