"""The results of a group of runs, averaged over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from cld_core.run.groups import Group
from cld_core.texts import one_line
from cldctl.evals import averages
from cldctl.evals.compare import quantities_of
from cldctl.show.evaluations import average_text
from cldctl.show.format import count

from .table import Table


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """The averages of a group.

    Attributes:
        table: None if no run has results.
        left_out: the runs whose results cannot be read, a line each.
    """

    table: Table | None
    left_out: Sequence[str]


def averaged(group: Group) -> Averaged:
    """The averages over those runs of a group that can be read; runs without results are in the other table."""
    left_out: list[str] = []
    lines, _ = averages.of_group(group, spare=lambda run, error: left_out.append(f"{run.name}: {one_line(error)}"))
    return Averaged(table=_table(lines) if lines else None, left_out=left_out)


def _table(lines: Sequence[averages.Line]) -> Table:
    """A line for each choice of the other keys, as `cldctl compare` has it."""
    keys = list(dict.fromkeys(key for line in lines for key in line.cell))
    quantities = quantities_of([column for line in lines for column in line.columns])
    labels = [it.label for it in quantities]
    rows = [
        [
            line.name,
            *(one_line(line.cell.get(key, "-"), 60) for key in keys),
            count(line.step),
            str(len(line.columns)),
            *(average_text(line, it) for it in quantities),
        ]
        for line in lines
    ]
    return Table(
        caption=averages.RULE[:1].upper() + averages.RULE[1:],
        headings=["group", *keys, "step", "runs", *labels],
        rows=rows,
        right=frozenset({*keys, "step", "runs", *labels}),
    )
