"""How long a run will take, by runs of the same kind in the same folder, before it is submitted."""

import heapq
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cld_core.config import Recipe
from cld_core.run import RunFolder

# The newest runs that are looked at, and the seconds that this may take: nobody waits for an estimate.
NEWEST = 200
WITHIN_S = 1.0
# Of so many comparable runs, the rates are enough.
ENOUGH = 5


@dataclass(frozen=True)
class Estimate:
    """Seconds of training at the rate of comparable runs.

    Attributes:
        rate: steps per second, the median of ``runs``.
        hours: of all GPUs, or without any, of all CPU cores; ``unit`` says which.
        runs: names of the runs that the rate was measured in, the newest first.
    """

    seconds: float
    rate: float
    hours: float
    unit: str
    runs: tuple[str, ...]


def estimate(root: Path, recipe: Recipe, *, without: str | None = None) -> Estimate | None:
    """How long a training takes that begins at step 0; None if no comparable run has measured its rate.

    Comparable is a run of the same model, data and optimiser, with as many ranks, as large a batch and GPUs as well.

    Args:
        without: the name of the run that is estimated.
    """
    deadline = time.monotonic() + WITHIN_S
    rates: dict[str, float] = {}
    for run in _newest(root, deadline):
        if time.monotonic() > deadline or len(rates) == ENOUGH:
            break
        rate = None if run.name == without else _rate(run, recipe)
        if rate is not None:
            rates[run.name] = rate
    if not rates:
        return None
    rate, size = statistics.median(rates.values()), recipe.cluster
    seconds = recipe.train.steps / rate
    devices, unit = (size.gpus, "GPU-hours") if size.gpus else (size.cores, "core-hours")
    return Estimate(seconds, rate, devices * seconds / 3600, unit, tuple(rates))


def _newest(root: Path, deadline: float) -> Iterator[RunFolder]:
    """The runs that were changed last, newest first; those that were seen by ``deadline``."""
    changed: list[tuple[float, str]] = []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if time.monotonic() > deadline:
                    break
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    changed.append((entry.stat(follow_symlinks=False).st_mtime, entry.name))
    except OSError:
        return
    for _, name in heapq.nlargest(NEWEST, changed):
        yield RunFolder(root / name)


def _rate(run: RunFolder, recipe: Recipe) -> float | None:
    """The steps per second that a run last reported; None if it is another kind of run, or has not reported any."""
    rate = run.progress().get("steps_per_s")
    if not rate or rate <= 0:
        return None
    try:
        other = run.recipe()
    except Exception:  # A damaged run, or one of another version, is no measurement.
        return None
    return rate if _kind(other) == _kind(recipe) else None


def _kind(recipe: Recipe) -> tuple[str, int, int, bool]:
    return (
        recipe.model_digest(),
        recipe.cluster.world_size,
        recipe.train.batch_size,
        recipe.cluster.uses_gpu,
    )
