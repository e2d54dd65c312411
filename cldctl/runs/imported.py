"""A published checkpoint becomes a run."""

import time
from dataclasses import dataclass
from pathlib import Path

from cld_core.errors import UsageError
from cld_core.recipe import Recipe
from cld_core.run import RunFolder
from cld_core.run.atomic import write_json
from cld_core.run.events import Imported
from cld_core.run.identity import identity


@dataclass(frozen=True)
class ImportedRun:
    """The new run, the step of its checkpoint, and how many parameters its network has."""

    run: RunFolder
    step: int
    parameters: int


def import_published(file: Path, recipe: Recipe, recipe_file: Path, path: Path) -> ImportedRun:
    """Make a run at ``path`` of a checkpoint in the published layout, written with this recipe.

    Raises:
        CheckpointError: the file is not such a checkpoint, or a tensor does not fit the recipe. Nothing is written.
        UsageError: its step is beyond `train.steps`, or the name of the run cannot be used.
    """
    from cld_core import checkpoint, published

    state = published.read(file, recipe)
    step, steps = state.pop("step"), recipe.train.steps
    if step > steps:
        raise UsageError(f"{file} is of step {step}, beyond train.steps={steps}. Add train.steps={step}.")
    about = {"imported": str(file.absolute()), **identity(recipe.name, recipe_file)}
    run = RunFolder.create(path, recipe, about)
    checkpoint.write(run, step, state)
    run.ledger.append(Imported(step=step, source=file.name, finished=step >= steps))
    progress = {"attempt": 0, "step": step, "steps": steps, "loss": None, "steps_per_s": None, "time": time.time()}
    write_json(run.progress_file, progress)
    return ImportedRun(run, step, sum(tensor.numel() for tensor in state["model"].values()))
