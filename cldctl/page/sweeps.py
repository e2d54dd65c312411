"""The sweeps of a run as curves with error bars, and as tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cld_core.evaluation import registry
from cld_core.evaluation.sweeps import Sweep
from cld_core.run import RunFolder
from cldctl.evals.table import keys_of, rows
from cldctl.runs.status import RunStatus
from cldctl.show.tables import cell_text

from .chart import Chart, Line, chart, positions
from .table import Table


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One sweep."""

    title: str
    progress: str
    charts: list[Chart]
    table: Table


def shown(run: RunFolder, row: RunStatus) -> list[Shown]:
    """The sweeps of a run that can be read, oldest first."""
    found = []
    for entry in row.sweeps:
        sweep = Sweep.load(run.evals / entry["id"])
        if sweep is not None:
            progress = f"{entry['id']}: {entry['done']} of {len(entry['evaluations'])} evaluations are complete"
            found.append(_shown(sweep, rows(run, sweep), progress))
    return found


def _shown(sweep: Sweep, cells: Sequence[Mapping[str, Any]], progress: str) -> Shown:
    keys = keys_of(cells)
    charts = [_chart(sweep, cells, key) for key in keys]
    return Shown(
        title=f"Sweep over {' and '.join(axis.key for axis in sweep.axes)}",
        progress=progress,
        charts=[drawn for drawn in charts if drawn is not None],
        table=_table(sweep, cells, keys),
    )


def _chart(sweep: Sweep, cells: Sequence[Mapping[str, Any]], key: str) -> Chart | None:
    """A result against the last axis, a line for each choice on the others."""
    along = sweep.axes[-1]
    at = positions(along.values)
    groups: dict[str, dict[float, Mapping[str, Any]]] = {}
    for cell in cells:
        if cell[key] is not None and math.isfinite(cell[key]):
            label = ", ".join(f"{axis.key.split('.')[-1]} {cell[axis.key]}" for axis in sweep.axes[:-1])
            groups.setdefault(label, {})[at[cell[along.key]]] = cell
    label = registry.quantity(key).label
    lines = [_line(name or label, group, key, place) for place, (name, group) in enumerate(groups.items())]
    names = sorted((x, value) for value, x in at.items())
    return chart(label, lines, x_label=along.key, names=names)


def _line(label: str, group: Mapping[float, Mapping[str, Any]], key: str, place: int) -> Line:
    ordered = [(x, group[x]) for x in sorted(group)]
    errors = [cell[f"{key}_stderr"] for _, cell in ordered]
    return Line(
        label=label,
        points=[(x, float(cell[key])) for x, cell in ordered],
        errors={
            index: float(error) for index, error in enumerate(errors) if error is not None and math.isfinite(error)
        },
        series=place,
    )


def _table(sweep: Sweep, cells: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Table:
    quantities = [registry.quantity(key) for key in keys]
    body = []
    for cell in cells:
        results = ["-" if cell[it.key] is None else cell_text(it, cell) for it in quantities]
        nfe = list(dict.fromkeys(f"{cell[f'{key}_nfe']:,.0f}" for key in keys if cell[f"{key}_nfe"] is not None))
        body.append([*(str(cell[axis.key]) for axis in sweep.axes), *results, ", ".join(nfe) or "-"])
    axes, labels = [axis.key for axis in sweep.axes], [it.label for it in quantities]
    return Table(
        caption=f"Results by {' and '.join(axes)}",
        headings=[*axes, *labels, "NFE"],
        rows=body,
        right=frozenset({*labels, "NFE"}),
    )
