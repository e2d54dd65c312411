"""`cldctl import`: a checkpoint in the published layout becomes a run."""

import time
from pathlib import Path
from typing import Annotated

import typer

from cld_core.errors import UsageError
from cld_core.run import RunFolder
from cld_core.run.atomic import write_json
from cldctl.ui.console import err, out

from .options import Overrides, RunsDir, runs_dir


def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the published code, such as checkpoint_800000.pth.")],
    recipe: Annotated[str, typer.Option("--recipe", help="The recipe that it was trained with.")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the recipe's and a suffix.")] = None,
    directory: RunsDir = None,
) -> None:
    """Make a run of a published checkpoint: weights, their average, the optimiser's state and the step.

    The run can be sampled, evaluated and resumed. Nothing is written where a tensor does not fit the recipe.

    Example: cldctl import checkpoint_800000.pth --recipe cifar10 --name published
    """
    from cld_core import checkpoint, published
    from cld_core.recipe import load
    from cldctl.identity import identity, new_name

    from .recipes import find_recipe

    found = find_recipe(recipe)
    resolved = load(found, overrides or [])
    state = published.read(file, resolved)
    step = state.pop("step")
    if step > resolved.train.steps:
        raise UsageError(
            f"{file} is of step {step}, beyond train.steps={resolved.train.steps}. Add train.steps={step}."
        )
    origin = {"imported": str(file.absolute()), **identity(found)}
    path = runs_dir(directory) / (name or new_name(resolved.name))
    run = RunFolder.create(path, resolved, {"created": time.time(), "recipe": resolved.name, **origin})
    checkpoint.write(run, step, state)
    done = "finished" if step >= resolved.train.steps else "imported"
    run.ledger.append("started", attempt=0, step=step, job_id=None, host=None)
    run.ledger.append("ended", attempt=0, cause=done, step=step, detail=f"imported from {file.name}")
    progress = {"attempt": 0, "step": step, "steps": resolved.train.steps, "loss": None, "steps_per_s": None}
    write_json(run.progress_file, {**progress, "time": time.time()})
    count = sum(tensor.numel() for tensor in state["model"].values())
    err.print(f"run [bold]{run.name}[/] in {run.path}: step {step}, {count:,} parameters", soft_wrap=True)
    if resolved.optim.name != "adam":
        text = f"published checkpoints were trained with adam; resuming goes on with its state as {resolved.optim.name}"
        err.print(text, style="yellow", soft_wrap=True)
    err.print(f"next:\n  cldctl sample {run.name}\n  cldctl eval {run.name} --elbo", soft_wrap=True)
    out.print(run.name, markup=False)
