"""Making a run of a published checkpoint."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.files import write_json

from .checkpoint import published
from .checkpoint.write import write
from .config import Recipe
from .errors import UsageError
from .model import Model
from .run import RunFolder, events
from .run.folder import ReportedProgress


@dataclass(frozen=True)
class ImportedRun:
    """A new run, the step of its checkpoint, and the number of its parameters."""

    folder: RunFolder
    step: int
    parameters: int


def import_published(
    file: Path,
    recipe: Recipe,
    path: Path,
    identity: dict[str, Any],
    was_read: Callable[[], object] = lambda: None,
) -> ImportedRun:
    """Make the run at ``path`` of a published checkpoint: weights, their average, the optimiser's state and the step.

    Nothing is left of the run if a tensor does not fit the recipe, or if something cannot be written.

    Args:
        identity: what `run.json` is to hold, see `cld_core.run.identity`.
        was_read: called when the file is read, and before anything is written.

    Raises:
        NotFoundError, CheckpointError: the file does not exist, has another layout, or does not fit the recipe.
        UsageError: the checkpoint is later than `train.steps`, or the name is taken.
        SaveError: the checkpoint cannot be written.
    """
    step, state = published.read(file, Model(recipe).net, recipe.optim)
    if step > recipe.train.steps:
        text = f"is of step {step}, later than train.steps={recipe.train.steps}. Add train.steps={step}."
        raise UsageError(f"{file} {text}")
    was_read()
    folder = RunFolder.create(path, recipe, {**identity, "imported": str(file.absolute())})
    try:
        write(folder, step, {**state, "model_digest": recipe.model_digest()})
        _record(folder, step, recipe.train.steps, file.name)
    except BaseException:
        # A run without events would look as if it waited to be submitted.
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return ImportedRun(folder, step, sum(tensor.numel() for tensor in state["model"].values()))


def _record(folder: RunFolder, step: int, steps: int, source: str) -> None:
    folder.ledger.append(events.Imported(step=step, source=source, finished=step >= steps))
    progress = ReportedProgress(attempt=0, step=step, steps=steps, loss=None, steps_per_s=None, time=time.time())
    write_json(folder.progress_file, progress)
