"""The table of a sweep and its picture, which are written once all its evaluations are complete."""

import csv
import io
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cld_core import metrics as registry
from cld_core.files import replacing, write_text
from cld_core.run import RunFolder
from cld_core.run.evaluations import Number, Sweep, current_report, numbers, sweeps_of

# Ratio of the largest to the smallest value from which an axis is logarithmic.
_LOG_FROM = 5.0


def rows(run: RunFolder, sweep: Sweep) -> list[dict[str, Any]]:
    """One row per cell: the axes, the evaluation, and its results, with standard errors, NFE and lost samples.

    In a cell with repeats, the results are means, and their standard errors come from the spread between them. Missing
    numbers are None. The column ``KEY_nonfinite``, the fraction of samples that are not finite and not part of the
    result, exists only if some are.
    """
    reports = {name: current_report(run.evals / name) or {} for name in sweep.evaluations}
    results = {name: numbers(report) for name, report in reports.items()}
    present = quantities_in(results.values())
    table = []
    for cell in sweep.cells:
        # A cell is as far as the last of its evaluations.
        shown = next((name for name in cell.evaluations if not reports[name]), cell.evaluation)
        step = reports[cell.evaluation].get("checkpoint_step")
        row: dict[str, Any] = {**cell.values, "evaluation": shown, "checkpoint_step": step}
        for it in present:
            found = [results[name].get(it.key) for name in cell.evaluations]
            number = found[0] if it.is_reference else averaged(found)
            row |= {it.key: number and number.value, f"{it.key}_stderr": number and number.stderr}
            # What true samples have took none.
            if not it.is_reference:
                row[f"{it.key}_nfe"] = found[0] and found[0].nfe
        table.append(row)
    for key in (it.key for it in present):
        lost = {name: result[key].lost if key in result else 0.0 for name, result in results.items()}
        shares = [statistics.fmean(lost[name] for name in cell.evaluations) for cell in sweep.cells]
        if any(shares):
            for row, share in zip(table, shares, strict=True):
                row[f"{key}_nonfinite"] = share
    return table


def averaged(numbers: Sequence[Number | None]) -> Number | None:
    """The mean of several results, with the standard error of their spread; None if one is missing.

    A single result is itself.
    """
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return None
    if len(known) == 1:
        return known[0]
    mean, spread = mean_of([number.value for number in known])
    return Number(mean, None if spread is None else spread / math.sqrt(len(known)), known[0].n)


def mean_of(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation (n - 1 in the denominator); None of one value, or if any is not finite."""
    if not all(map(math.isfinite, values)):
        return sum(values) / len(values), None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def finite(value: float | None) -> float | None:
    """A number for JSON, which has neither infinities nor NaN: the value of samples that diverged is None."""
    return value if value is not None and math.isfinite(value) else None


def quantities_in(results: Iterable[Collection[str]]) -> list[registry.Quantity]:
    """The numbers that any of these results has, of which each is by its key, in the order of the table of metrics."""
    keys = set[str]().union(*results)
    return [quantity for _, quantity in registry.quantities() if quantity.key in keys]


def keys_of(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """The results of samples or test points that the rows have, in the order of the table of metrics."""
    return [quantity.key for quantity in quantities_in(table[:1]) if not quantity.is_reference]


def to_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV with a heading; a missing number is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def lines_of(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows by their values on all axes but the last, along which a picture has a line for each."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        label = ", ".join(f"{axis.key.rpartition('.')[2]} {row[axis.key]}" for axis in sweep.axes[:-1])
        lines.setdefault(label, []).append(row)
    return lines


def plot(path: Path, sweep: Sweep, rows: Sequence[Mapping[str, Any]], keys: Sequence[str], title: str) -> None:
    """Draw the results ``keys`` of a complete sweep, from its `rows`, as PNG."""
    from matplotlib.figure import Figure

    along = sweep.axes[-1]
    lines = lines_of(sweep, rows)
    figure = Figure(figsize=(5.5 * max(1, len(keys)), 4.2), layout="constrained")
    for index, key in enumerate(keys):
        axes = figure.add_subplot(1, len(keys), index + 1)
        positions = _positions(along.values)
        for place, (label, cells) in enumerate(lines.items()):
            if known := [cell for cell in cells if cell[key] is not None]:
                x, values = [positions[cell[along.key]] for cell in known], [cell[key] for cell in known]
                errors = [cell[f"{key}_stderr"] or 0.0 for cell in known]
                axes.errorbar(x, values, errors, color=f"C{place}", marker="o", capsize=3, label=label)
        if _is_logarithmic(positions.values()):
            axes.set_xscale("log")
        axes.set_xticks([positions[value] for value in along.values], labels=list(along.values))
        axes.minorticks_off()
        if _is_logarithmic([row[key] for row in rows if row[key] is not None and math.isfinite(row[key])]):
            axes.set_yscale("log")
        axes.set_xlabel(along.key)
        axes.set_ylabel(registry.quantity(key).label)
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend()
    figure.suptitle(title)
    with replacing(path) as file:
        figure.savefig(file, dpi=120, format="png")


def _positions(values: Sequence[str]) -> dict[str, float]:
    """The position of each value on the axis: the value itself if all are numbers, otherwise its index."""
    try:
        return {value: float(value) for value in values}
    except ValueError:
        return {value: float(index) for index, value in enumerate(values)}


def _is_logarithmic(values: Collection[float]) -> bool:
    return bool(values) and max(values) >= _LOG_FROM * min(values) > 0


def is_complete(run: RunFolder, sweep: Sweep) -> bool:
    """Whether all evaluations have results of the present checkpoint."""
    return all(current_report(run.evals / name) is not None for name in sweep.evaluations)


def write_finished(run: RunFolder) -> None:
    """Write `table.csv` and `plot.png` of every sweep that is complete and has reports newer than those files."""
    for folder, sweep in sweeps_of(run):
        if not is_complete(run, sweep):
            continue
        newest = max((run.evals / name / "report.json").stat().st_mtime for name in sweep.evaluations)
        target = folder / "table.csv"
        if not target.is_file() or target.stat().st_mtime < newest:
            table = rows(run, sweep)
            plot(folder / "plot.png", sweep, table, keys_of(table), run.name)
            write_text(target, to_csv(table))
