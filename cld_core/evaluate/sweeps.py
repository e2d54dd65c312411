"""A sweep in its folder (`evals/sweep-ID/sweep.json`): a table of evaluations, one for every combination of settings.

Loads no torch or numpy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cld_core.codec import RecordError, find_record, to_plain
from cld_core.digests import digest
from cld_core.files import by_age, write_json
from cld_core.run import RunFolder
from cld_core.run.folder import is_name


@dataclass(frozen=True)
class Axis:
    """A key of the recipe and its values, as they are typed."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One combination: the value on each axis, and the evaluation that answers it.

    Attributes:
        repeats: the same evaluation with other seeds; results are averaged over all of them.
    """

    values: Mapping[str, str]
    evaluation: str
    repeats: tuple[str, ...] = ()

    @property
    def evaluations(self) -> tuple[str, ...]:
        return (self.evaluation, *self.repeats)


@dataclass(frozen=True)
class Sweep:
    """Cells over axes; the last axis becomes the columns of a table. Cells may share an evaluation."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        keys = {axis.key for axis in self.axes}
        is_whole = all(keys <= cell.values.keys() for cell in self.cells) and all(map(is_name, self.evaluations))
        if not (is_whole and keys and all(axis.values for axis in self.axes)):
            raise RecordError("it is not a sweep")

    @property
    def id(self) -> str:
        """Name of its folder, made of its content."""
        axes = [[axis.key, axis.values] for axis in self.axes]
        content = [axes, [list(cell.evaluations) if cell.repeats else cell.evaluation for cell in self.cells]]
        return f"sweep-{digest(content)[:8]}"

    @property
    def evaluations(self) -> tuple[str, ...]:
        """The evaluations of all cells, each once."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in cell.evaluations))

    def save(self, run: RunFolder) -> Path:
        """Make the sweep's folder if it is not there yet, and return it."""
        folder = run.evals / self.id
        if not (folder / "sweep.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "sweep.json", {"id": self.id, **to_plain(self, sparse=True)})
        return folder

    @classmethod
    def load(cls, folder: Path) -> "Sweep | None":
        """The sweep of a folder; None if there is none, or it is damaged."""
        return find_record(cls, folder / "sweep.json")


def sweeps_of(run: RunFolder) -> list[tuple[Path, Sweep]]:
    """The sweeps of a run with their folders, oldest first."""
    names = [name for name in run.evaluation_names() if name.startswith("sweep-")]
    files = by_age(run.evals / name / "sweep.json" for name in names)
    return [(file.parent, sweep) for file in files if (sweep := Sweep.load(file.parent)) is not None]
