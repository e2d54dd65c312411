"""A sweep in its folder (`evals/sweep-ID/sweep.json`): a table of evaluations, one for every combination of settings.

Loads no torch or numpy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.digests import digest
from cld_core.run import RunFolder, changes
from cld_core.run.atomic import write_json
from cld_core.run.folder import is_name
from cld_core.small_files import by_age, read_object, text


@dataclass(frozen=True)
class Axis:
    """A key of the recipe and its values, as they are typed."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One combination: the value on each axis, and the evaluation that answers it."""

    values: Mapping[str, str]
    evaluation: str


@dataclass(frozen=True)
class Sweep:
    """Cells over axes; the last axis becomes the columns of a table. Cells may share an evaluation."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]

    @property
    def id(self) -> str:
        """Name of its folder, made of its content."""
        content = [[[axis.key, axis.values] for axis in self.axes], [cell.evaluation for cell in self.cells]]
        return f"sweep-{digest(content)[:8]}"

    @property
    def evaluations(self) -> tuple[str, ...]:
        """The evaluations of all cells, each once."""
        return tuple(dict.fromkeys(cell.evaluation for cell in self.cells))

    def save(self, run: RunFolder) -> Path:
        """Make the sweep's folder if it is not there yet, and return it."""
        folder = run.evals / self.id
        if not (folder / "sweep.json").is_file():
            changes.mark(run.path)
            folder.mkdir(parents=True, exist_ok=True)
            axes = [{"key": axis.key, "values": axis.values} for axis in self.axes]
            cells = [{"values": dict(cell.values), "evaluation": cell.evaluation} for cell in self.cells]
            write_json(folder / "sweep.json", {"id": self.id, "axes": axes, "cells": cells})
        return folder

    @classmethod
    def load(cls, folder: Path) -> "Sweep | None":
        """The sweep of a folder; None if there is none, or it is damaged."""
        content = read_object(folder / "sweep.json")
        try:
            axes = tuple(Axis(_text(axis["key"]), tuple(map(_text, axis["values"]))) for axis in content["axes"])
            keys = [axis.key for axis in axes]
            cells = [
                ({key: _text(cell["values"][key]) for key in keys}, cell["evaluation"]) for cell in content["cells"]
            ]
        except (KeyError, TypeError):
            return None
        if not axes or not all(axis.values for axis in axes) or not all(is_name(str(name)) for _, name in cells):
            return None
        return cls(axes, tuple(Cell(values, name) for values, name in cells))


def sweeps_of(run: RunFolder) -> list[tuple[Path, Sweep]]:
    """The sweeps of a run with their folders, oldest first."""
    names = [name for name in run.evaluation_names() if name.startswith("sweep-")]
    files = by_age(run.evals / name / "sweep.json" for name in names)
    return [(file.parent, sweep) for file in files if (sweep := Sweep.load(file.parent)) is not None]


def _text(value: Any) -> str:
    if text(value) is None:
        raise TypeError(f"{value!r} is not a text")
    return str(value)
