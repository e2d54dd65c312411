"""The cells of a sweep of trainings: from axes to recipes and names, all checked before anything is written."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from cld_core.config import Recipe, load, load_frozen
from cld_core.config.schema import leaves
from cld_core.digests import digest
from cld_core.errors import UsageError
from cld_core.evaluate.sweeps import Axis
from cld_core.run import RunFolder
from cld_core.run.folder import check_name
from cld_core.run.groups import Group, values_of
from cldctl.evals.plan import combinations, meaning, named, parse

# Each is a run with a folder of its own, which is locked while the jobs are submitted.
MAX_CELLS = 500
# The rest of a name of 100 letters is for what a run has of its own.
MAX_GROUP_NAME = 60
_MAX_NAME = 100
_NUMBER = re.compile(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?")
_UNUSABLE = re.compile(r"[^A-Za-z0-9._-]+")
_NOT_SWEPT = {
    "cluster": "the jobs of a sweep are one array, in which all are of the same size. Submit a group for each value",
    **dict.fromkeys(
        ("sampling", "eval", "ema"),
        "it changes no training. Sweep over it afterwards: `cldctl eval RUN --sweep KEY=a,b`",
    ),
}
_SECTIONS = tuple(entry.name for entry in fields(Recipe) if entry.name not in ("name", *_NOT_SWEPT))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep: its name, its value on each axis, and its recipe."""

    name: str
    values: Mapping[str, str]
    recipe: Recipe


def axes_of(texts: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of ``submit --sweep KEY=a,b,c`` options.

    Raises:
        UsageError: one is not of this form, cannot be swept, or a key or value is given twice; or there are too many
            cells.
    """
    for text in texts:
        key = text.partition("=")[0]
        if (why := _NOT_SWEPT.get(key.split(".")[0])) is not None:
            raise UsageError(f"--sweep '{key}': {why}.")
    axes = parse(texts, _SECTIONS, " `cldctl render RECIPE` lists the keys.", "train.seed=0,1,2")
    cells = len(combinations(axes))
    if cells > MAX_CELLS:
        raise UsageError(
            f"--sweep: {cells} runs are more than {MAX_CELLS} at once. Sweep over fewer values, then add the others "
            "with the same --name."
        )
    return axes


def cells_of(
    group: str, axes: Sequence[Axis], file: Path, overrides: Sequence[str], profile: Path | None
) -> tuple[Cell, ...]:
    """The runs of a sweep, the last axis changing fastest.

    Raises:
        UsageError: a value is invalid, the jobs are not of the same size, or two cells are the same; names the cell.
    """
    check_group_name(group)
    cells: dict[str, Cell] = {}
    for values in combinations(axes):
        own = settings(values)
        with named(own):
            recipe = load(file, [*overrides, *own], profile)
            cell = Cell(name=run_name(group, values), values=values, recipe=recipe)
            check_name(cell.name)
            _check_size(next(iter(cells.values()), cell), cell)
            if (other := cells.get(digest(recipe.to_dict()))) is not None:
                which = " ".join(settings(other.values))
                raise UsageError(f"the recipe is the same as at {which}. Leave one of them out.")
        cells[digest(recipe.to_dict())] = cell
    return tuple(cells.values())


def check_group_name(name: str) -> None:
    """Refuse what cannot name a group.

    Raises:
        UsageError
    """
    check_name(name)
    if len(name) > MAX_GROUP_NAME:
        text = f"the name of a group has at most {MAX_GROUP_NAME} letters, because the names of its runs begin with it"
        raise UsageError(f"--name {name}: {text}. Use a shorter one.")


def run_name(group: str, values: Mapping[str, str]) -> str:
    """The name of a run of a group, made of its values alone: toy-seed0-lr1e-4.

    Values that cannot be part of a name as they are, or could be read in two ways, are told apart by a digest.
    """
    shorts = [key.rpartition(".")[2] for key in values]
    words, is_plain = [], True
    for key, value in values.items():
        short = key.rpartition(".")[2]
        is_number = _NUMBER.fullmatch(value) is not None
        is_plain &= is_number or not (_UNUSABLE.search(value) or "-" in value)
        word = short if shorts.count(short) == 1 else key
        words.append(f"{word}{'' if is_number else '-'}{_UNUSABLE.sub('_', value)}")
    name = "-".join([group, *words])
    if is_plain and len(name) <= _MAX_NAME:
        return name
    mark = digest(dict(values))[:8]
    return f"{name[: _MAX_NAME - len(mark) - 1]}-{mark}"


def existing(group: Group, cells: Sequence[Cell]) -> dict[str, RunFolder]:
    """The runs that cells have already, by the name of the cell.

    Raises:
        UsageError: a name is taken by a run of no group, or of another; or a run was submitted with another recipe.
    """
    by_values = {meaning(values_of(run)): run for run in group.runs()}
    found = {}
    for cell in cells:
        run = by_values.get(meaning(cell.values))
        if run is not None:
            _check_same(run, cell)
            found[cell.name] = run
        elif (other := RunFolder(group.root / cell.name)).exists:
            text = f"a run of this name exists, and is not part of the group {group.name}"
            raise UsageError(f"{other.path}: {text}. Choose another --name.")
    return found


def _check_same(run: RunFolder, cell: Cell) -> None:
    """Refuse to take a run for a cell if it was submitted with other settings, which would go unnoticed."""
    wanted = _comparable(cell.recipe.anchored(Path.cwd()))
    # As it was submitted, or as it was continued: both are what somebody asked for.
    recipes = [_comparable(recipe) for recipe in (load_frozen(run.recipe_file), run.recipe())]
    if wanted in recipes:
        return
    differing = [key for key, value in wanted.items() if recipes[0].get(key) != value] or ["a key of its recipe"]
    texts = [f"{key}={recipes[0].get(key)}" for key in differing[:3]]
    fix = "Use another --name, or the settings that the group was submitted with"
    raise UsageError(f"{run.name} exists, and was submitted with {', '.join(texts)}. {fix}.")


def _comparable(recipe: Recipe) -> dict[str, object]:
    """By key, what a training depends on: not the jobs, and not where a plug-in lies."""
    values = leaves(recipe.to_dict())
    return {key: value for key, value in values.items() if not key.startswith("cluster.") and key != "plugins"}


def _check_size(first: Cell, cell: Cell) -> None:
    if cell.recipe.cluster != first.recipe.cluster:
        differing = [
            f"cluster.{entry.name}"
            for entry in fields(cell.recipe.cluster)
            if getattr(cell.recipe.cluster, entry.name) != getattr(first.recipe.cluster, entry.name)
        ]
        text = f"{', '.join(differing)} differs from that of {' '.join(settings(first.values))}"
        raise UsageError(f"{text}: the jobs of an array are all of the same size. Set it to one value.")


def settings(values: Mapping[str, str]) -> list[str]:
    """The values of a cell as overrides."""
    return [f"{key}={value}" for key, value in values.items()]
