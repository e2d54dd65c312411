"""Tables of many evaluations: a sweep, and results against the step."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from cld_core.evaluation import registry
from cld_core.evaluation.definitions import Quantity
from cld_core.evaluation.sweeps import Sweep
from cldctl.evals.table import keys_of

from .fitting import plain_table
from .format import count
from .tables import cell_text, counts_of, present_in, result_of

# What follows the best result of a column.
BEST = "*"


def sweep_table(
    sweep: Sweep,
    rows: Sequence[Mapping[str, Any]],
    evals: Mapping[str, Mapping[str, Any]],
    best: Collection[tuple[str, int]] | None = None,
) -> RenderableType:
    """A table for each result, the last axis across; cells without one show the state of their evaluation.

    Args:
        evals: the evaluations of the sweep as `status` knows them, by their names.
        best: results that are marked, as (key, number of the row); None to mark none.
    """
    quantities: list[Quantity | None] = [registry.quantity(key) for key in keys_of(rows)]
    return Group(*(_one_result(sweep, rows, evals, quantity, best) for quantity in quantities or [None]))


def _one_result(
    sweep: Sweep,
    rows: Sequence[Mapping[str, Any]],
    evals: Mapping[str, Mapping[str, Any]],
    quantity: Quantity | None,
    best: Collection[tuple[str, int]] | None,
) -> RenderableType:
    *down, across = sweep.axes
    label = quantity.label if quantity is not None else "states"
    table = plain_table()
    for axis in down:
        table.add_column(axis.key.split(".")[-1], no_wrap=True)
    if not down:
        table.add_column("")
    for value in across.values:
        table.add_column(f"{across.key.split('.')[-1]} {value}", justify="right", overflow="fold")
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for number, row in enumerate(rows):
        cells = lines.setdefault(tuple(str(row[axis.key]) for axis in down), {})
        if quantity is not None and row[quantity.key] is not None:
            mark = "" if best is None else BEST if (quantity.key, number) in best else " "
            cells[row[across.key]] = cell_text(quantity, row) + mark
        else:
            state = evals.get(row["evaluation"], {}).get("state", "-").lower()
            # It is finished, and does not have this result.
            cells[row[across.key]] = "-" if quantity is not None and state == "finished" else state
    for head, cells in lines.items():
        table.add_row(*map(Text, [*(head or (label,)), *(cells.get(value, "-") for value in across.values)]))
    # A table's own title is wrapped to its width.
    title = f"{label} by {' and '.join(axis.key for axis in sweep.axes)}{_of(sweep, evals, quantity)}"
    return Group(Text(title, style="bold"), table)


def _of(sweep: Sweep, evals: Mapping[str, Mapping[str, Any]], quantity: Quantity | None) -> str:
    """Of how many samples or test points the results of a sweep are, unless they differ in that."""
    asked = [] if quantity is None else [quantity]
    counts = {text for name in sweep.evaluations if name in evals for text in counts_of(evals[name], asked)}
    return f", {counts.pop()}" if len(counts) == 1 else ""


def by_step(evals: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """For settings with results at several steps, a table of the results against the step."""
    groups: dict[str, dict[int, Mapping[str, Any]]] = {}
    for entry in evals:
        if entry["results"]:
            groups.setdefault(entry["settings"], {})[entry["checkpoint_step"]] = entry
    return [_against_step(list(group.values())) for group in groups.values() if len(group) > 1]


def _against_step(entries: Sequence[Mapping[str, Any]]) -> RenderableType:
    quantities = present_in(entries)
    table = plain_table()
    table.add_column("step", justify="right", no_wrap=True)
    for quantity in quantities:
        table.add_column(quantity.label, justify="right", overflow="fold")
    for entry in sorted(entries, key=lambda entry: entry["checkpoint_step"]):
        results = [result_of(entry, quantity, with_count=True) for quantity in quantities]
        table.add_row(*map(Text, [count(entry["checkpoint_step"]), *results]))
    return Group(Text(f"{', '.join(entries[0]['metrics'])} against the step", style="bold"), table)
