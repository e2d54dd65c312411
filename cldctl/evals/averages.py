"""Results of a group of runs: the mean over seeds, and how much seeds differ."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cld_core.errors import CldError, NotFoundError
from cld_core.evaluation.definitions import Quantity
from cld_core.run import RunFolder
from cld_core.run.groups import Group, values_of

from .compare import Column, Result, column, quantities_of, unlike
from .sweep import meaning

# The axis of a sweep that is averaged over.
SEED = "train.seed"
RULE = "mean ± standard deviation over seeds (n - 1 in the denominator); of a single run, its own standard error"


@dataclass(frozen=True)
class Average:
    """A result of one or several seeds.

    Attributes:
        spread: the standard deviation over seeds; None of a single run.
        stderr: of a single run, its standard error, if it has one.
        one: the result of one of them: settings and counts are the same in all.
    """

    mean: float
    spread: float | None
    stderr: float | None
    n: int
    one: Result


@dataclass(frozen=True)
class Line:
    """Runs that differ only in their seed, evaluated at the same step with the same settings.

    Attributes:
        name: of their group, or of a run that belongs to none.
        cell: their values on the other axes, by key.
    """

    name: str
    cell: Mapping[str, str]
    columns: tuple[Column, ...]

    @property
    def step(self) -> int:
        return self.columns[0].step

    def average(self, key: str) -> Average | None:
        """The result of a quantity; None if none of the runs has it."""
        results = [column.results[key] for column in self.columns if key in column.results]
        if not results:
            return None
        values = [result.number.value for result in results]
        alone = len(values) == 1
        spread = None if alone else statistics.stdev(values)
        return Average(
            statistics.fmean(values), spread, results[0].number.stderr if alone else None, len(values), results[0]
        )

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        results = {quantity.key: self._entry(quantity) for quantity in quantities_of(self.columns)}
        names = [column.run for column in self.columns]
        return {"name": self.name, "cell": dict(self.cell), "runs": names, "checkpoint_step": self.step} | results

    def _entry(self, quantity: Quantity) -> dict[str, Any]:
        average = self.average(quantity.key)
        assert average is not None, "a quantity that a column has"
        values = {it.run: it.results[quantity.key].number.value for it in self.columns if quantity.key in it.results}
        numbers = {"mean": average.mean, "std": average.spread, "stderr": average.stderr, "n": average.n}
        return numbers | {"values": values, "how": average.one.how} | average.one.counts


def lines(name: str, members: Sequence[tuple[Column, Mapping[str, str]]]) -> list[Line]:
    """The runs of a group, grouped by their swept values except for the seed.

    Runs are averaged only if their step and the settings of all their results agree; others are separate lines.
    """
    found: list[Line] = []
    for one, values in members:
        cell = {key: value for key, value in values.items() if key != SEED}
        for place, line in enumerate(found):
            if meaning(line.cell) == meaning(cell) and all(_agree(one, other) for other in line.columns):
                found[place] = Line(name, line.cell, (*line.columns, one))
                break
        else:
            found.append(Line(name, cell, (one,)))
    # Cells that are shown apart stay together.
    order = list(dict.fromkeys(meaning(line.cell) for line in found))
    return sorted(found, key=lambda line: order.index(meaning(line.cell)))


def of_group(
    group: Group, checkpoint: str = "last", spare: Callable[[RunFolder, Exception], object] | None = None
) -> tuple[list[Line], list[str]]:
    """The lines of a group, and the names of its runs without results of a checkpoint.

    Args:
        spare: called with a run that cannot be read, which is then left out; None to raise.
    """
    members, missing = [], []
    for run in group.runs():
        try:
            members.append((column(run, checkpoint), values_of(run)))
        except NotFoundError:
            missing.append(run.name)
        except (CldError, OSError) as error:
            if spare is None:
                raise
            spare(run, error)
    return lines(group.name, members), missing


def warnings(found: Sequence[Line]) -> list[str]:
    """Messages: which seeds of a cell are shown separately, and what is unusual about results."""
    texts = []
    for first, other in itertools.pairwise(found):
        if first.name == other.name and meaning(first.cell) == meaning(other.cell):
            texts.append(f"{first.columns[0].run} and {other.columns[0].run} are not averaged: {_why(first, other)}")
    columns = [column for line in found for column in line.columns]
    remarks = (f"{it.run}: {result.remark}" for it in columns for result in it.results.values() if result.remark)
    return [*texts, *dict.fromkeys(remarks)]


def to_json(found: Sequence[Line], missing: Sequence[str]) -> dict[str, Any]:
    """A comparison of groups for ``--json``; ``missing`` are runs without results."""
    entries = [line.to_dict() for line in found]
    return {"rule": RULE, "lines": entries, "missing": list(missing), "warnings": warnings(found)}


def _agree(one: Column, other: Column) -> bool:
    return one.step == other.step and not any(
        _differing(one.results[key], other.results[key]) for key in one.results.keys() & other.results.keys()
    )


def _differing(one: Result, other: Result) -> list[str]:
    return unlike(one, other) or (["how"] if one.how != other.how else [])


def _why(first: Line, other: Line) -> str:
    if first.step != other.step:
        return f"they were evaluated at steps {first.step} and {other.step}"
    one, two = first.columns[0].results, other.columns[0].results
    names = [name for key in one.keys() & two.keys() for name in _differing(one[key], two[key])]
    return f"they differ in {', '.join(dict.fromkeys(names))}"
