"""`cldctl import`: a checkpoint in the published layout becomes a run."""

from pathlib import Path
from typing import Annotated

import typer

from cldctl.show.console import err, out, strong
from cldctl.show.progress import Working

from . import completing
from .groups import check_plugin
from .options import Overrides, RunsDir, runs_dir


def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the published code, such as checkpoint_800000.pth.")],
    recipe: Annotated[
        str, typer.Option("--recipe", help="The recipe that it was trained with.", autocompletion=completing.recipes)
    ],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the recipe's and a suffix.")] = None,
    directory: RunsDir = None,
) -> None:
    """Make a run of a published checkpoint: weights, their average, the optimiser's state and the step.

    It reads checkpoints of the CLD code, and those that PyTorch Lightning wrote for the PSLD code. The run can be
    sampled, evaluated and resumed. Nothing is written if a tensor does not fit the recipe.

    Example: cldctl import checkpoint_800000.pth --recipe cifar10 --name published
    """
    from cld_core.recipe import load
    from cld_core.recipe.plugin import with_plugin_found
    from cld_core.run.folder import check_name
    from cld_core.run.identity import identity, new_name
    from cldctl.lookup import find_recipe

    recipe_file = find_recipe(recipe)
    resolved = with_plugin_found(load(recipe_file, overrides or []), recipe_file)
    check_plugin(resolved, recipe_file, overrides or [], None)
    new = name or new_name(resolved.name)
    check_name(new)
    path = runs_dir(directory) / new
    with Working(f"reading {file.name}") as working:
        from cld_core.importing import import_published

        about = identity(resolved.name, recipe_file)
        made = import_published(file, resolved, path, about, lambda: working.phase(f"writing the run {new}"))
    run = made.folder
    done = f" in {run.path}: step {made.step}, {made.parameters:,} parameters"
    err.print(strong("run ", run.name, done))
    if resolved.optim.name != "adam":
        text = f"published checkpoints were trained with adam; resuming uses their state for {resolved.optim.name}"
        err.print(text, style="yellow")
    err.print(f"next:\n  cldctl sample {run.name}\n  cldctl eval {run.name} --elbo")
    out.print(run.name, markup=False)
