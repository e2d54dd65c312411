"""Shell completion. A shell waits for it, so nothing here loads torch.

If something goes wrong, nothing is offered: an error in the middle of a command line would not help.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from cld_core.evaluation import registry
from cld_core.run import RunFolder
from cld_core.run.folder import is_name, runs_beginning
from cld_core.run.lookup import meant
from cldctl import config
from cldctl.clusters import CLUSTERS

# Of more runs, a shell asks whether it is to list them.
_MOST = 500
# Names of files that a shell takes as they are: others could be commands.
_PLAIN = re.compile(r"[\w./+=:][\w./+=:-]*")
# Of other commands, all sections can be changed.
_OF_EVALUATIONS = ("eval", "sampling", "ema", "cluster")
_SECTIONS = {"sample": ("sampling", "ema"), "tune": ("eval", "sampling", "ema", "cluster")}
_SECTIONS |= dict.fromkeys(("eval", "samplers"), _OF_EVALUATIONS)

Completer = Callable[[typer.Context, str], list[str]]


def _quietly(find: Callable[[typer.Context, str], Iterable[str]]) -> Completer:
    @wraps(find)
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            return list(dict.fromkeys(find(ctx, incomplete)))
        except Exception:
            return []

    return complete


@_quietly
def runs(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Names of runs and groups, the newest run first."""
    root = _root(ctx)
    entries = [entry for entry in root.iterdir() if entry.name.startswith(incomplete) and is_name(entry.name)]
    for entry in sorted(entries, key=_changed, reverse=True)[:_MOST]:
        if RunFolder(entry).exists:
            yield entry.name
    yield from groups(ctx, incomplete)


def _changed(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # a link that leads nowhere
        return 0.0


@_quietly
def groups(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    names = (entry.name for entry in (_root(ctx) / ".groups").iterdir())
    yield from sorted(name for name in names if name.startswith(incomplete) and is_name(name))


@_quietly
def recipes(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Names of recipes, and YAML files of the folder that is being typed."""
    from cldctl.lookup import recipe_files

    yield from (name for name in recipe_files() if name.startswith(incomplete) and _PLAIN.fullmatch(name))
    yield from _yaml_files(incomplete)


@_quietly
def recipes_and_runs(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    yield from recipes(ctx, incomplete)
    yield from runs(ctx, incomplete)


@_quietly
def profiles(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    from cldctl.lookup import profile_files

    yield from (name for name in profile_files() if name.startswith(incomplete) and _PLAIN.fullmatch(name))
    yield from _yaml_files(incomplete)


@_quietly
def overrides(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """KEY= or, after it, values."""
    from .completing_keys import complete

    yield from complete(_given(ctx), incomplete, _SECTIONS.get(ctx.info_name or ""))


@_quietly
def runs_and_overrides(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Names of runs until there is one, and KEY=VALUE."""
    given = _given(ctx)
    if "=" not in incomplete and "." not in incomplete and given[-1:] != ["="]:
        yield from runs(ctx, incomplete)
    yield from overrides(ctx, incomplete)


@_quietly
def explained(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Names of keys, sections and variants."""
    from cld_core.recipe import described

    sections = described.sections()
    names = [*filter(None, sections), *described.keys()]
    names += [f"{section.name}.{variant}" for section in sections.values() for variant in section.variants]
    shown = [name for name in names if name.startswith(incomplete)]
    top = [name for name in shown if "." not in name]
    # First the sections, then what is in the only one.
    yield from top if "." not in incomplete and len(top) > 1 else shown


@_quietly
def checkpoints(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    steps = [str(step) for run in _runs_of(ctx) for step in reversed(run.checkpoint_steps())]
    yield from (text for text in ("last", *steps) if text.startswith(incomplete))


@_quietly
def evaluations(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Ids of the evaluations of the run."""
    for run in _runs_of(ctx):
        names = (entry.name for entry in run.evals.iterdir())
        yield from sorted(name for name in names if name.startswith(incomplete) and is_name(name))


@_quietly
def metrics(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Metrics, several with commas between them."""
    before, comma, last = incomplete.rpartition(",")
    given = before.split(",")
    names = (metric.name for metric in registry.metrics())
    yield from (f"{before}{comma}{name}" for name in names if name.startswith(last) and name not in given)


@_quietly
def metrics_of_samples(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """As `metrics`, without those of test points."""
    for text in metrics(ctx, incomplete):
        if registry.draws_samples([text.rpartition(",")[2]]):
            yield text


@_quietly
def samplers(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Names of samplers that `bench samplers` knows."""
    from cldctl.evals.samplers import SETTINGS

    yield from (name for name in SETTINGS if name.startswith(incomplete))


@_quietly
def methods(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    from cld_core.recipe.variants import names

    yield from (name for name in names("sampling") if name.startswith(incomplete))


@_quietly
def data_sets(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Sets of images that can be prepared."""
    from cld_core.recipe.data import ImageDataSpec
    from cld_core.recipe.variants import SECTIONS

    for name, variant in SECTIONS["data"].variants.items():
        if issubclass(variant.spec, ImageDataSpec) and name.startswith(incomplete):
            yield name


def clusters(ctx: typer.Context, incomplete: str) -> list[str]:
    return [name for name in CLUSTERS if name.startswith(incomplete)]


def states(ctx: typer.Context, incomplete: str) -> list[str]:
    from cldctl.runs.state import STATES

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{state}" for state in STATES if state.startswith(last.upper())]


def sorts(ctx: typer.Context, incomplete: str) -> list[str]:
    from cldctl.runs.selection import ORDERS

    return [name for name in ORDERS if name.startswith(incomplete)]


def _root(ctx: typer.Context) -> Path:
    return Path(ctx.params.get("directory") or config.runs_dir())


def _given(ctx: typer.Context) -> list[str]:
    """The words before the one that is typed, in their order: a recipe or runs, and overrides."""
    given: list[str] = []
    for name in ("recipe", "name", "words", "runs", "names", "overrides"):
        value: Any = ctx.params.get(name)
        given += [value] if isinstance(value, str) else [str(word) for word in value or ()]
    # What could not be parsed, because a value is still missing.
    return [*given, *ctx.args]


def _runs_of(ctx: typer.Context) -> list[RunFolder]:
    """The run that is named, or the newest."""
    root = _root(ctx)
    named = [meant(word, root) for word in _given(ctx)]
    if found := [run for run in named if run.exists][:1]:
        return found
    if words := [word for word in _given(ctx) if "=" not in word]:
        # The beginning of a name is enough if no other run begins like that; another run is not meant.
        found = runs_beginning(root, words[0])
        return found if len(found) == 1 else []
    from cldctl.runs.index import Index

    newest = Index(root).newest()
    return [] if newest is None else [newest]


def _yaml_files(incomplete: str) -> Iterator[str]:
    """Paths of YAML files and of folders, in the folder that is typed."""
    if "/" not in incomplete:
        return
    folder, slash, beginning = incomplete.rpartition("/")
    for entry in sorted(Path(f"{folder}{slash}").iterdir()):
        is_meant = entry.name.startswith(beginning) and (beginning or not entry.name.startswith("."))
        if is_meant and _PLAIN.fullmatch(entry.name):
            if entry.is_dir():
                yield f"{folder}{slash}{entry.name}/"
            elif entry.suffix in (".yaml", ".yml"):
                yield f"{folder}{slash}{entry.name}"
