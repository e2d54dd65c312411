"""Shell completion: names of runs, recipes and keys, and the words that options take. A shell waits for it.

Paths are left to the shell. If something goes wrong, nothing is offered: an error in the middle of a command line would
not help.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import typer

# Of more runs, a shell asks whether it is to list them.
_MOST = 500
# Names of files that a shell takes as they are: others could be commands.
_PLAIN = re.compile(r"[\w./+=:][\w./+=:-]*")
# Of other commands, all sections can be changed.
_OF_EVALUATIONS = ("eval", "sampling", "ema", "cluster")
_SECTIONS = {"sample": ("sampling", "ema"), **dict.fromkeys(("eval", "samplers", "tune"), _OF_EVALUATIONS)}

Completer = Callable[[typer.Context, str], list[str]]


def _offered(find: Callable[[typer.Context, str], Iterable[str]]) -> Completer:
    """What is found for a word and continues it."""

    @wraps(find)
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            # bash makes "=" a word of its own.
            return [it for it in dict.fromkeys(find(ctx, incomplete)) if it.startswith(incomplete.lstrip("="))]
        except Exception:
            return []

    return complete


def _listed(find: Callable[[], Iterable[str]]) -> Completer:
    """Words of which several may be given with commas between them."""

    def complete(ctx: typer.Context, incomplete: str) -> Iterator[str]:
        before, comma, _ = incomplete.rpartition(",")
        yield from (f"{before}{comma}{word}" for word in find() if word not in before.split(","))

    return _offered(complete)


@_offered
def runs(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Names of runs, the newest first, and of groups."""
    from cld_core.run import RunFolder
    from cld_core.run.folder import is_name

    found = []
    for entry in _root(ctx).iterdir():
        if entry.name.startswith(incomplete) and is_name(entry.name) and entry.exists():
            found.append((entry.stat().st_mtime, entry))
    yield from (entry.name for _, entry in sorted(found, reverse=True)[:_MOST] if RunFolder(entry).exists)
    yield from groups(ctx, incomplete)


@_offered
def groups(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    from cld_core.run.folder import is_name

    yield from filter(is_name, sorted(entry.name for entry in (_root(ctx) / ".groups").iterdir()))


@_offered
def recipes(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    from cldctl.lookup import recipe_files

    return filter(_PLAIN.fullmatch, recipe_files())


@_offered
def recipes_and_runs(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    return [*recipes(ctx, incomplete), *runs(ctx, incomplete)]


@_offered
def profiles(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    from cldctl.lookup import profile_files

    return filter(_PLAIN.fullmatch, profile_files())


@_offered
def overrides(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """KEY= or, after it, values: where the shell splits words at "=", these alone."""
    from cld_core.recipe import described

    keys, words = described.keys(), _words(ctx)
    key, equals, _ = incomplete.partition("=")
    if key and equals:
        yield from (f"{key}={value}" for value in _values(keys[key]))
    elif words[-1:] == ["="]:
        yield from _values(keys[words[-2]])
    elif words and words[-1] in keys and incomplete in ("", "="):
        yield from _values(keys[words[-1]])
    else:
        sections = _SECTIONS.get(ctx.info_name or "") or [name for name in described.sections() if name]
        yield from _keys([key for key in keys.values() if key.name.partition(".")[0] in sections], incomplete)


def _keys(keys: Iterable[Any], incomplete: str) -> Iterator[str]:
    """The sections, or the keys in the only section that is meant."""
    found = [key for key in keys if "." in key.name and key.name.startswith(incomplete)]
    sections = dict.fromkeys(f"{key.name.partition('.')[0]}." for key in found)
    if "." not in incomplete and len(sections) > 1:
        yield from sections
        return
    yield from (f"{key.name}=" for key in found)
    if len(found) == 1:
        # A second one keeps the shell from writing a space behind the only one.
        yield f"{found[0].name}={_values(found[0])[-1]}"


def _values(key: Any) -> list[str]:
    values = [*key.options, *(meaning.default for meaning in key.meanings)]
    return list(dict.fromkeys(value.replace(", ", ",") for value in values))


@_offered
def runs_and_overrides(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    is_value = "=" in incomplete or _words(ctx)[-1:] == ["="]
    return [*([] if is_value else runs(ctx, incomplete)), *overrides(ctx, incomplete)]


@_offered
def explained(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """Names of sections, and then of keys and variants."""
    from cld_core.recipe import described

    sections = described.sections()
    names = [*filter(None, sections), *described.keys()]
    names += [f"{section.name}.{variant}" for section in sections.values() for variant in section.variants]
    top = [name for name in names if "." not in name and name.startswith(incomplete)]
    return top if len(top) > 1 else names


@_offered
def checkpoints(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    return ["last", *(str(step) for run in _run(ctx) for step in reversed(run.checkpoint_steps()))]


@_offered
def evaluations(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    from cld_core.run.folder import is_name

    return filter(is_name, sorted(entry.name for run in _run(ctx) for entry in run.evals.iterdir()))


@_listed
def metrics() -> Iterable[str]:
    from cld_core.evaluation.registry import METRICS

    return METRICS


@_listed
def states() -> Iterable[str]:
    from cldctl.runs.state import STATES

    return STATES


@_listed
def sorts() -> Iterable[str]:
    from cldctl.runs.selection import ORDERS

    return ORDERS


@_listed
def clusters() -> Iterable[str]:
    from cldctl.clusters import CLUSTERS

    return CLUSTERS


@_listed
def samplers() -> Iterable[str]:
    from cldctl.evals.samplers import SETTINGS

    return SETTINGS


@_listed
def methods() -> Iterable[str]:
    from cld_core.recipe.variants import names

    return names("sampling")


@_listed
def data_sets() -> Iterable[str]:
    """Sets of images that can be prepared."""
    from cld_core.recipe.data import ImageDataSpec
    from cld_core.recipe.variants import SECTIONS

    return [name for name, variant in SECTIONS["data"].variants.items() if issubclass(variant.spec, ImageDataSpec)]


def _root(ctx: typer.Context) -> Path:
    from cldctl import config

    return Path(ctx.params.get("directory") or config.runs_dir())


def _words(ctx: typer.Context) -> list[str]:
    """The words before the one that is typed, in their order: a recipe or runs, and overrides."""
    given: list[str] = []
    for name in ("recipe", "name", "words", "names", "overrides"):
        value: Any = ctx.params.get(name)
        given += [value] if isinstance(value, str) else [str(word) for word in value or ()]
    # What could not be parsed, because a value is still missing.
    return [*given, *ctx.args]


def _run(ctx: typer.Context) -> list[Any]:
    """The run that is named, perhaps by the beginning of its name, or the newest; empty if it is none."""
    from cld_core.run.folder import runs_beginning
    from cld_core.run.lookup import meant
    from cldctl.runs.index import Index

    root = _root(ctx)
    named = [word for word in _words(ctx) if "=" not in word]
    if named and not (run := meant(named[0], root)).exists:
        found = runs_beginning(root, named[0])
        return found if len(found) == 1 else []
    return [run] if named else [newest for newest in [Index(root).newest()] if newest is not None]
