"""Results: the evaluations of a run, sweeps, samplers side by side, and runs or groups side by side."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cld_core.evaluation import registry
from cld_core.evaluation.definitions import Quantity
from cld_core.evaluation.published import PublishedSampler
from cld_core.evaluation.sweeps import Sweep
from cld_core.run import RunFolder
from cldctl.evals.averages import Line
from cldctl.evals.compare import COUNTS, Column, quantities_of, verdict
from cldctl.evals.compared_samplers import best, published_for, references
from cldctl.evals.table import keys_of, rows

from .format import count, fixed
from .tables import Cell, cell_text, counts_of, present_in, result_of, result_text, state_text, table

# What follows the best result of a column.
BEST = "*"
# A run beside others is no wider than this.
_COLUMN = 48
_STYLE = {"better": "bold green", "worse": "bold red"}


def evaluations(evals: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Evaluations of a run, with those results that any of them has."""
    columns: dict[str, Sequence[Cell]] = {
        "evaluation": [entry["id"] for entry in evals],
        "state": [state_text(entry["state"]) for entry in evals],
        "shards": [f"{entry['shards_done']}/{entry['shards']}" for entry in evals],
        "step": [count(entry["checkpoint_step"]) for entry in evals],
        "of": [", ".join(counts_of(entry)) or "-" for entry in evals],
        **{it.label: [result_of(entry, it) for entry in evals] for it in present_in(evals)},
    }
    if any(entry["true_entropy"] is not None for entry in evals):
        columns["true entropy"] = [fixed(entry["true_entropy"]) for entry in evals]
    right = [heading for heading in columns if heading not in ("evaluation", "state")]
    return table(columns, right=right, optional=("shards",), names="evaluation", title="evaluations")


def remarks(evals: Sequence[Mapping[str, Any]]) -> list[Text]:
    """What is unusual about the results of evaluations, a line each."""
    return [Text(f"{entry['id']}: {text}", "yellow") for entry in evals for text in entry["remarks"]]


def by_step(evals: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """For settings with results at several steps, a table of the results against the step."""
    groups: dict[str, dict[int, Mapping[str, Any]]] = {}
    for entry in evals:
        if entry["results"]:
            groups.setdefault(entry["settings"], {})[entry["checkpoint_step"]] = entry
    return [_against_step(list(group.values())) for group in groups.values() if len(group) > 1]


def _against_step(entries: Sequence[Mapping[str, Any]]) -> RenderableType:
    ordered = sorted(entries, key=lambda entry: entry["checkpoint_step"])
    columns = {
        "step": [count(entry["checkpoint_step"]) for entry in ordered],
        **{it.label: [result_of(entry, it, with_count=True) for entry in ordered] for it in present_in(entries)},
    }
    return _under(f"{', '.join(entries[0]['metrics'])} against the step", table(columns, right=columns))


def _under(title: str, drawn: RenderableType) -> RenderableType:
    """A table below a title that is not folded to its width."""
    return Group(Text(title, style="bold"), drawn)


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
    heads = {axis.key.split(".")[-1]: axis.key for axis in down} or {"": ""}
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for number, row in enumerate(rows):
        cells = lines.setdefault(tuple(str(row[axis.key]) for axis in down) or (label,), {})
        if quantity is not None and row[quantity.key] is not None:
            mark = "" if best is None else BEST if (quantity.key, number) in best else " "
            cells[row[across.key]] = cell_text(quantity, row) + mark
        else:
            state = evals.get(row["evaluation"], {}).get("state", "-").lower()
            # It is finished, and does not have this result.
            cells[row[across.key]] = "-" if quantity is not None and state == "finished" else state
    columns = dict(zip(heads, map(list, zip(*lines, strict=True)), strict=True))
    results = {
        f"{across.key.split('.')[-1]} {value}": [cells.get(value, "-") for cells in lines.values()]
        for value in across.values
    }
    title = f"{label} by {' and '.join(axis.key for axis in sweep.axes)}{_count_of(sweep, evals, quantity)}"
    return _under(title, table(columns | results, right=results))


def _count_of(sweep: Sweep, evals: Mapping[str, Mapping[str, Any]], quantity: Quantity | None) -> str:
    """Of how many samples or test points the results of a sweep are, unless they differ in that."""
    asked = [] if quantity is None else [quantity]
    counts = {text for name in sweep.evaluations if name in evals for text in counts_of(evals[name], asked)}
    return f", {counts.pop()}" if len(counts) == 1 else ""


def samplers(run: RunFolder, sweep: Sweep, statuses: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Samplers side by side: a table for each metric, what samples could reach, and what is published.

    Args:
        statuses: the evaluations of the sweep as `status` knows them; cells without a result show their states.
    """
    found = rows(run, sweep)
    marked = best(run, sweep, found)
    shown: list[RenderableType] = [sweep_table(sweep, found, {entry["id"]: entry for entry in statuses}, marked)]
    shown += map(Text, _notes(run, sweep, found, is_marked=bool(marked)))
    if known := published_for(run):
        shown += [Text(), _published(known)]
    return Group(*shown)


def _notes(run: RunFolder, sweep: Sweep, found: Sequence[Mapping[str, Any]], *, is_marked: bool) -> Iterator[str]:
    if is_marked:
        yield f"{BEST} the best of those that took as many evaluations (log-density: nearest to the truth)"
    if any(name.endswith("_nonfinite") for name in found[0]):
        yield "lost: samples that are not finite; results are of the others, and not compared"
    repeats = max(len(cell.evaluations) for cell in sweep.cells)
    if repeats > 1:
        yield f"mean of {repeats} seeds ± its standard error"
    known = references(run, sweep)
    if "w2_floor" in known:
        floor = result_text(registry.quantity("w2_floor"), known["w2_floor"], known.get("w2_floor_stderr"))
        yield f"sliced W2 of two true sets: {floor}"
    if "true_density" in known:
        yield f"log-density of the truth: {known['true_density']:.3f} nats"
    if "flow_nfe" in known:
        yield f"the flow that samples are compared with took {known['flow_nfe']:,.0f} evaluations"


def _published(known: Sequence[PublishedSampler]) -> RenderableType:
    columns = {
        "model": [it.model for it in known],
        "sampler": [it.sampler for it in known],
        "NFE": ["-" if it.nfe is None else f"{it.nfe:,}" for it in known],
        "FID": [f"{it.fid:.2f}" for it in known],
        "source": [it.source for it in known],
    }
    title = "published, not measured here"
    return table(columns, right=("NFE", "FID"), optional=["source"], names="model", title=title)


def compared(columns: Sequence[Column]) -> RenderableType:
    """Results of runs, a column each; those that differ from the first by more than the errors are marked."""
    lines: list[tuple[str, Sequence[Cell]]] = [
        ("step", [count(column.step) for column in columns]),
        ("steps of the run", [count(column.steps) for column in columns]),
    ]
    for quantity in quantities_of(columns):
        lines.append((quantity.label, [_result(columns[0], column, quantity) for column in columns]))
        lines.append(("  of", [Text(_counts(column, quantity), "dim") for column in columns]))
        lines.append(("  how", [Text(_how(column, quantity), "dim") for column in columns]))
    # Names are headings, and may be twice the same.
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    drawn.add_column("", no_wrap=True)
    for column in columns:
        drawn.add_column(Text(column.run), justify="right", overflow="fold", max_width=_COLUMN)
    for name, cells in lines:
        drawn.add_row(name, *(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    return drawn


def _result(first: Column, column: Column, quantity: Quantity) -> Text:
    if quantity.key not in column.results:
        return Text("-")
    result = column.results[quantity.key]
    text = result_text(quantity, result.number.value, result.number.stderr)
    if column is first or quantity.key not in first.results:
        return Text(text)
    mark = verdict(quantity, first.results[quantity.key], result)
    return Text(f"{text} {mark}", _STYLE[mark]) if mark in _STYLE else Text(text)


def _counts(column: Column, quantity: Quantity) -> str:
    question = column.results[quantity.key].question if quantity.key in column.results else {}
    return next((f"{question[name]:,} {name}" for name in COUNTS if name in question), "-")


def _how(column: Column, quantity: Quantity) -> str:
    if quantity.key not in column.results:
        return "-"
    result = column.results[quantity.key]
    return result.how + ("" if result.nfe is None else f", {result.nfe:.0f} NFE")


def averaged(lines: Sequence[Line]) -> RenderableType:
    """Results of groups, a line for each cell averaged over seeds, and of runs beside them."""
    keys = list(dict.fromkeys(key for line in lines for key in line.cell))
    heads = {key: key.rpartition(".")[2] for key in keys}
    if len(set(heads.values())) < len(keys):
        heads = {key: key for key in keys}
    quantities = quantities_of([column for line in lines for column in line.columns])
    columns: dict[str, Sequence[Cell]] = {
        "group or run": [line.name for line in lines],
        **{head: [line.cell.get(key, "-") for line in lines] for key, head in heads.items()},
        "step": [count(line.step) for line in lines],
        "runs": [str(len(line.columns)) for line in lines],
        **{it.label: [average_text(line, it) for line in lines] for it in quantities},
        "of": [Text(_of(line, quantities), "dim") for line in lines],
        "how": [Text(_hows(line, quantities), "dim") for line in lines],
    }
    right = [heading for heading in columns if heading not in ("group or run", "of", "how")]
    return table(columns, right=right, optional=("how",), names="group or run", wraps="how")


def average_text(line: Line, quantity: Quantity) -> str:
    """A mean with its error, and of how many runs it is if not of all of the line; "-" if there is none."""
    average, runs = line.average(quantity.key), len(line.columns)
    if average is None:
        return "-"
    text = result_text(quantity, average.mean, average.spread if average.n > 1 else average.stderr)
    return text if average.n == runs else f"{text} ({average.n} run{'' if average.n == 1 else 's'})"


def _of(line: Line, quantities: Sequence[Quantity]) -> str:
    questions = [average.one.question for it in quantities if (average := line.average(it.key)) is not None]
    texts = [f"{question[name]:,} {name}" for question in questions for name in COUNTS if name in question]
    return ", ".join(dict.fromkeys(texts)) or "-"


def _hows(line: Line, quantities: Sequence[Quantity]) -> str:
    texts = [average.one.how for it in quantities if (average := line.average(it.key)) is not None]
    return "; ".join(dict.fromkeys(texts)) or "-"
