"""The table of a sweep: its rows, and the files that are written once all its evaluations are complete."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from cld_core.evaluation import registry
from cld_core.evaluation.report_numbers import network_evaluations, numbers
from cld_core.evaluation.reports import current_report
from cld_core.evaluation.sweeps import Sweep, sweeps_of
from cld_core.run import RunFolder
from cld_core.run.atomic import write_text


def rows(run: RunFolder, sweep: Sweep) -> list[dict[str, Any]]:
    """One row per cell: the axes, the evaluation, and value, standard error and NFE of each result.

    Missing numbers are None.
    """
    reports = {name: current_report(run.evals / name) or {} for name in sweep.evaluations}
    results = {name: numbers(report) for name, report in reports.items()}
    keys = [quantity.key for _, quantity in registry.quantities()]
    present = [key for key in keys if any(key in result for result in results.values())]
    table = []
    for cell in sweep.cells:
        report = reports[cell.evaluation]
        row: dict[str, Any] = {
            **cell.values,
            "evaluation": cell.evaluation,
            "checkpoint_step": report.get("checkpoint_step"),
        }
        for key in present:
            number = results[cell.evaluation].get(key)
            row[key] = number.value if number else None
            row[f"{key}_stderr"] = number.stderr if number else None
            row[f"{key}_nfe"] = network_evaluations(report, key)
        table.append(row)
    return table


def keys_of(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """The results that the rows have, in the order of the table of metrics."""
    return [quantity.key for _, quantity in registry.quantities() if table and quantity.key in table[0]]


def to_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV with a heading; a missing number is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def write_finished(run: RunFolder) -> None:
    """Write `table.csv` and `plot.png` of every sweep that is complete and has reports newer than those files."""
    for folder, sweep in sweeps_of(run):
        files = [run.evals / name / "report.json" for name in sweep.evaluations]
        if any(current_report(file.parent) is None for file in files):
            continue
        newest = max(file.stat().st_mtime for file in files)
        target = folder / "table.csv"
        if not target.is_file() or target.stat().st_mtime < newest:
            from .plot import plot

            table = rows(run, sweep)
            plot(folder / "plot.png", sweep, table, keys_of(table), run.name)
            write_text(target, to_csv(table))
