"""A table of evaluations: every combination of a few settings, one evaluation each (`evals/sweep-ID/`)."""

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.errors import UsageError, did_you_mean
from cld_core.evaluation.results import METRICS, evaluations_of_network, numbers
from cld_core.recipe.build import known_keys
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json, write_json, write_text
from cldctl.cluster.state import current_report

SECTIONS = ("sampling", "eval")
# The axis of an evaluation of several checkpoints.
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Axis:
    """A key of the recipe and the values that it takes, as they are typed."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One combination: the value on each axis, and the evaluation that answers it."""

    values: Mapping[str, str]
    evaluation: str


@dataclass(frozen=True)
class Sweep:
    """Cells over axes, the last of which becomes the columns of a table. Cells may share an evaluation."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]

    @property
    def id(self) -> str:
        """Name of its folder, made of its content."""
        content = [[[axis.key, axis.values] for axis in self.axes], [cell.evaluation for cell in self.cells]]
        return f"sweep-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]}"

    @property
    def evaluations(self) -> tuple[str, ...]:
        """The evaluations of all cells, each once."""
        return tuple(dict.fromkeys(cell.evaluation for cell in self.cells))

    def save(self, run: RunFolder) -> Path:
        """Make the sweep's folder unless it is there, and return it."""
        folder = run.evals / self.id
        if not (folder / "sweep.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            axes = [{"key": axis.key, "values": axis.values} for axis in self.axes]
            cells = [{"values": dict(cell.values), "evaluation": cell.evaluation} for cell in self.cells]
            write_json(folder / "sweep.json", {"id": self.id, "axes": axes, "cells": cells})
        return folder

    @classmethod
    def load(cls, folder: Path) -> "Sweep | None":
        """The sweep of a folder; None where there is none."""
        content = read_json(folder / "sweep.json")
        if content is None:
            return None
        axes = tuple(Axis(axis["key"], tuple(axis["values"])) for axis in content["axes"])
        return cls(axes, tuple(Cell(cell["values"], cell["evaluation"]) for cell in content["cells"]))


def parse(texts: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of ``--sweep KEY=a,b,c`` options.

    Raises:
        UsageError: not of this form, a key of another section, or a key or value twice.
    """
    axes: list[Axis] = []
    for text in texts:
        key, equals, listed = text.partition("=")
        values = tuple(value.strip() for value in listed.split(","))
        if not equals or not key or not all(values):
            raise UsageError(f"--sweep '{text}': write KEY=a,b,c, for example --sweep sampling.nfe=20,50.")
        if key.split(".")[0] not in SECTIONS:
            meant = [f"{name}.{key}" for name in SECTIONS if f"{name}.{key}" in known_keys({}, name)]
            guess = did_you_mean(key, meant, cutoff=0)
            text = f"only keys of {' and '.join(SECTIONS)} can be swept"
            raise UsageError(f"--sweep '{key}': {text}.{guess or ' Submit other runs.'}")
        if key in [axis.key for axis in axes]:
            raise UsageError(f"--sweep '{key}' is there twice. Put all its values into one.")
        if len(set(values)) < len(values):
            raise UsageError(f"--sweep '{text}' has a value twice. Leave one out.")
        axes.append(Axis(key, values))
    return tuple(axes)


def combinations(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Every choice of one value on each axis; the last axis changes fastest. One empty choice without axes."""
    return [
        dict(zip([axis.key for axis in axes], values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def refuse_idle_axes(sweep: Sweep) -> None:
    """Raises UsageError for an axis along which no evaluation differs: its key has no effect on what was asked."""
    for axis in sweep.axes:
        groups: dict[tuple[str, ...], set[str]] = {}
        for cell in sweep.cells:
            others = tuple(value for key, value in cell.values.items() if key != axis.key)
            groups.setdefault(others, set()).add(cell.evaluation)
        if len(axis.values) > 1 and all(len(found) == 1 for found in groups.values()):
            raise UsageError(f"--sweep '{axis.key}' has no effect on what is evaluated here. Leave it out.")


def sweeps_of(run: RunFolder) -> list[tuple[Path, Sweep]]:
    """The sweeps of a run with their folders, oldest first."""
    files = sorted(run.evals.glob("sweep-*/sweep.json"), key=lambda file: file.stat().st_mtime)
    return [(file.parent, sweep) for file in files if (sweep := Sweep.load(file.parent)) is not None]


def rows(run: RunFolder, sweep: Sweep) -> list[dict[str, Any]]:
    """A row a cell: the axes, the evaluation, and of each result value, standard error and NFE; None where missing."""
    reports = {name: current_report(run.evals / name) or {} for name in sweep.evaluations}
    present = [metric.key for metric in METRICS if any(metric.key in numbers(found) for found in reports.values())]
    table = []
    for cell in sweep.cells:
        report = reports[cell.evaluation]
        found = numbers(report)
        row: dict[str, Any] = {
            **cell.values,
            "evaluation": cell.evaluation,
            "checkpoint_step": report.get("checkpoint_step"),
        }
        for key in present:
            number = found.get(key)
            row[key] = number.value if number else None
            row[f"{key}_stderr"] = number.stderr if number else None
            row[f"{key}_nfe"] = evaluations_of_network(report, key)
        table.append(row)
    return table


def keys_of(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """The results that the rows have, in their fixed order."""
    return [metric.key for metric in METRICS if table and metric.key in table[0]]


def write_finished(run: RunFolder) -> None:
    """Write `table.csv` and `plot.png` of every sweep that is complete and has none of its present reports."""
    for folder, sweep in sweeps_of(run):
        files = [run.evals / name / "report.json" for name in sweep.evaluations]
        if any(current_report(file.parent) is None for file in files):
            continue
        newest = max(file.stat().st_mtime for file in files)
        target = folder / "table.csv"
        if not target.is_file() or target.stat().st_mtime < newest:
            from .plot import plot

            table = rows(run, sweep)
            plot(folder / "plot.png", sweep, table, run.name)
            write_text(target, to_csv(table))


def to_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV with a heading; empty where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()
