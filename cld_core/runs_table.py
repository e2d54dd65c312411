"""The runs of a folder as a table, from their folders alone. Loads no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self, overload

from cld_core.records import record
from cld_core.run.evaluations import numbers
from cld_core.run.work import evaluations_of

from .config.loader import path_of
from .errors import CldError, NoRunError, UsageError, did_you_mean
from .run import RunFolder, find_runs
from .run.folder import default_root
from .run.state import NoAnswers, RunFacts, state_of
from .sanitize import one_line

# Results of evaluations that are columns.
_RESULTS = ("bpd", "nll", "fid")


@record
class Run:
    """One row; a value that the folder does not contain is None.

    Attributes:
        path: the path of its folder; `cld_core.load` takes it.
        state: PENDING before the first attempt, RUNNING until the end of the newest one is
            recorded, then FINISHED, STOPPED, FAILED, CANCELLED or LOST, which depends on its cause.
            The scheduler is not queried, so a killed job may still be RUNNING here; `cldctl status`
            queries it.
        loss: the last reported loss.
        smoothed_loss: an exponential mean of all reported losses, as `cldctl status` shows it; None
            if it is unknown.
        cause: why the newest attempt ended.
        bpd: bits/dim, from the newest evaluation that has it; so are ``nll``, in nats, and ``fid``.
        problem: a description of the damage of a folder.
    """

    name: str
    path: str
    recipe: str | None = None
    data: str | None = None
    sde: str | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    smoothed_loss: float | None = None
    state: str = "LOST"
    cause: str | None = None
    bpd: float | None = None
    nll: float | None = None
    fid: float | None = None
    problem: str | None = None


class Runs(Sequence[Run]):
    """Runs, oldest first, as a table.

    ``runs[-1]`` is the newest run, ``runs["NAME"]`` the run of a name, ``runs[2:]`` some of them,
    and ``pandas.DataFrame(runs.to_dicts())`` a frame.
    """

    def __init__(self, rows: Sequence[Run], root: Path) -> None:
        self._rows = tuple(rows)
        self._root = root

    @classmethod
    def under(cls, root: str | Path | None = None) -> Self:
        """The runs directly under a folder; default: $CLDCTL_RUNS, else runs/.

        There are none if the folder does not exist.
        """
        folder = default_root() if root is None else path_of(root, "runs_dir", "cld_core.runs")
        return cls([row_of(run) for run in find_runs(folder)], folder.absolute())

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, value: object) -> bool:
        """Whether there is a run of this name, or this row."""
        return any(value in (row.name, row) for row in self._rows)

    @overload
    def __getitem__(self, key: int | str) -> Run: ...
    @overload
    def __getitem__(self, key: slice) -> "Runs": ...
    def __getitem__(self, key: int | str | slice) -> "Run | Runs":
        if isinstance(key, slice):
            return type(self)(self._rows[key], self._root)
        rows: Any = {row.name: row for row in self._rows} if isinstance(key, str) else self._rows
        try:
            row: Run = rows[key]
            return row
        except (LookupError, TypeError) as error:
            guess = did_you_mean(key, rows) if isinstance(key, str) else ""
            raise NoRunError(f"no run {key!r} in {self._root}.{guess}") from error

    def filter(self, where: Callable[[Run], bool] | None = None, **values: Any) -> "Runs":
        """The rows that have these values, for example ``filter(sde="cld", state="FINISHED")``.

        Args:
            where: a further condition, for example ``lambda run: run.step > 1000``. Runs with a
                `problem`, which may have no step, are then left out.

        Raises:
            UsageError: there is no such column; names the nearest.
        """
        for name in values:
            if name not in COLUMNS:
                guess = did_you_mean(name, COLUMNS) or f" There are {', '.join(COLUMNS)}."
                raise UsageError(f"Runs.filter: there is no column {name!r}.{guess}")
        matching = [
            row
            for row in self._rows
            if all(getattr(row, name) == value for name, value in values.items())
        ]
        return type(self)(
            [row for row in matching if where is None or (row.problem is None and where(row))],
            self._root,
        )

    def to_dicts(self) -> list[dict[str, Any]]:
        """A dictionary for each row, of plain values."""
        return [asdict(row) for row in self._rows]

    def __repr__(self) -> str:
        # Columns in which all values are None are left out.
        titles = [
            name for name in _SHOWN if any(getattr(row, name) is not None for row in self._rows)
        ]
        rows = [[_text(getattr(row, name)) for name in titles] for row in self._rows]
        if not rows:
            reason = "" if self._root.is_dir() else ": there is no such folder"
            return f"no runs in {self._root}{reason}"
        widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
        lines = []
        for row in (titles, *rows):
            cells = zip(row, widths, titles, strict=True)
            padded = (
                cell.ljust(width) if title in _TEXTS else cell.rjust(width)
                for cell, width, title in cells
            )
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)


COLUMNS = tuple(entry.name for entry in fields(Run))
_SHOWN = tuple(name for name in COLUMNS if name not in ("path", "cause"))
_TEXTS = ("name", "recipe", "data", "sde", "state", "problem")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else one_line(value)


def row_of(run: RunFolder) -> Run:
    """The row of a run; of a damaged one, the values that can be read. It never raises."""
    about: dict[str, Any] = {"name": run.name, "path": str(run.path)}
    try:
        problem = run.format_problem()
        if problem is None:
            return Run(**about, **_values(run))
    except Exception as error:
        problem = one_line(error) or type(error).__name__
    return Run(**about, problem=problem)


def _values(run: RunFolder) -> dict[str, Any]:
    history, progress = run.history_and_progress()
    last = history.last
    attempted = None if last is None else last.last_step
    steps = [progress.get("step"), attempted, history.saved]
    reached = max((step for step in steps if step is not None), default=0)
    return {
        **_recipe(run),
        "step": reached,
        "steps": history.steps if history.steps is not None else progress.get("steps"),
        "loss": progress.get("loss"),
        "smoothed_loss": progress.get("smoothed_loss"),
        "state": state_of(history, RunFacts(run), NoAnswers()).name,
        "cause": history.cause,
        **_results(run),
    }


def _recipe(run: RunFolder) -> dict[str, Any]:
    named = {"recipe": run.identity().get("recipe")}
    try:
        recipe = run.recipe()
    except (CldError, OSError) as error:
        return {**named, "problem": one_line(error)}
    return {"recipe": recipe.name, "data": recipe.data.name, "sde": recipe.sde.name}


def _results(run: RunFolder) -> Mapping[str, float]:
    """Each result from the newest evaluation that has it."""
    reports = [numbers(work.report) for work in evaluations_of(run)]
    return {key: report[key].value for report in reports for key in _RESULTS if key in report}
