"""What a new run, or a sweep of new runs, is to be: one record from the command line to the job."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cld_core.config import Recipe, load
from cld_core.config.loader import COMMAND_LINE
from cld_core.errors import UsageError
from cld_core.evaluate.registry import parse_metrics
from cld_core.run import RunFolder
from cld_core.run.folder import check_name
from cld_core.run.groups import Group
from cld_core.run.identity import new_name
from cld_core.sanitize import is_count
from cldctl.lookup import find_profile, find_recipe

from . import selection
from .cells import Cell, axes_of, cells_of, settings

# Tells people something, in one line.
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """A new run, or the runs of a sweep, as somebody asked for it.

    Attributes:
        path: the run's folder; of a sweep, the folder of its runs with the name of the group behind it.
        recipe: with ``given`` and ``profile``; of a sweep, that of its first run.
        file: where the recipe was read from.
        given: overrides of the command line; ``profile``: what it names.
        metrics: of the evaluation that follows the training; none without one.
        tags: to find it again by; ``note``: what it is for.
        live_code: run the checkout itself, in place of a copy in the run's folder.
        cells: the runs of a sweep; ``parallel``: how many of them may train at once.
        group: the runs that are submitted together, and ``sweep``, what this one has of its own, value by key.
    """

    path: Path
    recipe: Recipe
    file: Path
    given: tuple[str, ...] = ()
    profile: str | None = None
    metrics: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    note: str | None = None
    live_code: bool = False
    cells: tuple[Cell, ...] = ()
    parallel: int | None = None
    group: Group | None = None
    sweep: Mapping[str, str] = field(default_factory=dict)

    def of(self, cell: Cell) -> "SubmitOptions":
        """One of the runs of a sweep."""
        assert self.group is not None, "a sweep has a group"
        given, path = (*self.given, *settings(cell.values)), self.group.root / cell.name
        one = replace(self, path=path, recipe=cell.recipe, given=given, sweep=cell.values)
        return replace(one, cells=(), parallel=None)


def resolve(
    recipe: str,
    root: Path,
    *,
    name: str | None = None,
    given: Sequence[str] = (),
    profile: str | None = None,
    sweep: Sequence[str] = (),
    parallel: int | None = None,
    metrics: str | None = None,
    tags: Sequence[str] = (),
    note: str | None = None,
    live_code: bool = False,
) -> SubmitOptions:
    """The options of `cldctl submit` as the record that is submitted. Writes nothing.

    Raises:
        RecipeError: there is no such recipe, it cannot be read, or its plug-in cannot be imported.
        UsageError: the name cannot be one, or options are wrong or do not go together.
    """
    selection.check_labels(tags, note)
    if parallel is not None and not sweep:
        raise UsageError("--parallel goes with --sweep: one run is one job. Leave it out.")
    file, settings_file = find_recipe(recipe), find_profile(profile)
    common: dict[str, Any] = {"file": file, "given": tuple(given), "profile": profile}
    common |= {"tags": tuple(tags), "note": note, "live_code": live_code}
    if not sweep:
        resolved = load(file, given, settings_file)
        new = new_name(resolved.name) if name is None else name
        check_name(new)
        # Plug-ins of the recipe may have registered some.
        wanted = parse_metrics(metrics)
        return SubmitOptions(path=root / new, recipe=resolved, metrics=wanted, **common)
    axes = axes_of(sweep)
    refuse_twice("--sweep", [axis.key for axis in axes], given)
    # A recipe may be complete only with the values of a cell: its name is in any of them.
    first = [f"{axis.key}={axis.values[0]}" for axis in axes]
    new = new_name(load(file, [*given, *first], settings_file).name) if name is None else name
    cells = cells_of(new, axes, file, given, settings_file)
    group, common = Group(root, new), {**common, "metrics": parse_metrics(metrics)}
    return SubmitOptions(path=root / new, recipe=cells[0].recipe, cells=cells, parallel=parallel, group=group, **common)


def refuse_twice(option: str, keys: Iterable[str], overrides: Iterable[str]) -> None:
    """Raises UsageError if an override sets one of the keys that an option has set."""
    for text in overrides:
        if text.partition("=")[0] in keys:
            raise UsageError(f"{option} and {text} set the same key. Leave one out.")


def network_evaluations(text: str) -> tuple[int, ...]:
    """The numbers of network evaluations that ``--nfe`` lists, in their order.

    Raises:
        UsageError: one of them is not a whole number above 0, or is given twice.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not is_count(word) or int(word) < 1:
            raise UsageError(f"--nfe: '{word}' is not a number of network evaluations. Write --nfe 5,7,10.")
    numbers = tuple(map(int, words))
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--nfe {text} has a number twice. Remove one.")
    return numbers


@contextmanager
def named_as_typed(run: RunFolder, options: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Errors of recipes name the option that was typed rather than the key that it set, and ``run`` in commands.

    Args:
        options: the option of each key, such as "--nfe" of "sampling.nfe".
    """
    try:
        yield
    except UsageError as error:
        raise type(error)(as_typed(str(error), run, options)) from error


def as_typed(text: str, run: RunFolder, options: Mapping[str, str]) -> str:
    """A message of a recipe in the words of the command line; see `named_as_typed`."""
    for key, option in options.items():
        text = re.sub(rf"{COMMAND_LINE}(?:, and [^']*)?: '{re.escape(key)}' (?!is not a key)", f"{option} ", text)
    return text.replace("`cldctl resume RUN ", f"`cldctl resume {run.name} ")
