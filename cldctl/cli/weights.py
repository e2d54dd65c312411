"""`cldctl import` and `export`: weights come in from published checkpoints, and go out as safetensors."""

from pathlib import Path
from typing import Annotated

import typer

from cld_core.errors import UsageError
from cldctl.show.console import Working, err, out, strong

from . import options


def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the published code, such as checkpoint_800000.pth.")],
    recipe: Annotated[str, typer.Option(help="The recipe that it was trained with.")],
    overrides: options.Overrides = None,
    name: options.NewName = None,
    directory: options.RunsDir = None,
) -> None:
    """Make a run of a published checkpoint: weights, their average, the optimiser's state and the step.

    It reads checkpoints of the CLD code, and those that PyTorch Lightning wrote for the PSLD code. The run can be
    sampled, evaluated and resumed. Nothing is written if a tensor does not fit the recipe.

    Example: cldctl import checkpoint_800000.pth --recipe cifar10 --name published
    """
    from cld_core.run.identity import identity
    from cldctl.runs.options import resolve

    wanted = resolve(recipe, options.runs_dir(directory), name=name, given=overrides or ())
    resolved = wanted.recipe
    with Working(f"importing {file.name}"):
        from cld_core.importing import import_published

        about = identity(resolved.name, wanted.file)
        made = import_published(file, resolved, wanted.path, about)
    run = made.folder
    done = f" in {run.path}: step {made.step}, {made.parameters:,} parameters"
    err.print(strong("run ", run.name, done))
    if resolved.optim.name != "adam":
        text = f"published checkpoints were trained with adam; resuming uses their state for {resolved.optim.name}"
        err.print(text, style="yellow")
    err.print(f"next:\n  cldctl sample {run.name}\n  cldctl eval {run.name} --elbo")
    out.print(run.name)


def export(
    run: options.Run = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.safetensors", help="Where to write.")
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER|FILE.md",
            help="Write a model card with numbers, samples and recipe, too. A folder gets README.md, samples.png and "
            "model.safetensors.",
        ),
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license", metavar="ID", help="The licence of the weights, for the card: cc-by-4.0, mit, ..., or other."
        ),
    ] = None,
    checkpoint: options.Checkpoint = "last",
    ema_length: Annotated[
        float | None,
        typer.Option(metavar="LENGTH", help="The average of this relative length, made of those of train.ema_lengths."),
    ] = None,
    allow_plugin: options.AllowPlugin = False,
    directory: options.RunsDir = None,
) -> None:
    """Write the averaged weights and the recipe of a checkpoint as safetensors, for `cld_core.load(FILE)`.

    Example: cldctl export cifar10-0102-101112-ab12 -o cifar10.safetensors

    Example: cldctl export cifar10-0102-101112-ab12 --card cifar10/ --license cc-by-4.0
    """
    from cld_core.config.train import EmaSpec
    from cldctl.page import model_card

    licence = None if license_ is None else model_card.licence(license_)
    folder = options.find_run(run, options.runs_dir(directory))
    target = output or Path(f"{folder.name}.safetensors")
    options.check_output(target, (".safetensors",), "weights are")
    files = None
    if card is not None:
        files = model_card.places(card, output, target)
        target = files.weights
    elif licence is not None:
        raise UsageError("--license is part of a card. Add --card FOLDER, or leave it out.")

    with Working(f"loading {folder.name}") as working:
        import cld_core

        model = cld_core.load(folder.path, checkpoint, "cpu", allow_plugin=allow_plugin, ema_length=ema_length)
        if files is not None:
            files.card.parent.mkdir(parents=True, exist_ok=True)
        working.phase(f"writing {target.name}")
        model.export(target)
    step = ", ".join(filter(None, [f"step {model.step}", EmaSpec(length=ema_length).words]))
    err.print(f"averaged weights of {step} of {folder.name}, {target.stat().st_size / 2**20:.1f} MiB")
    out.print(str(target), no_wrap=True)
    if files is not None:
        saying = f"drawing samples of step {model.step}, of which the run has no picture"
        model_card.write(folder, model, files, licence or "unknown", lambda: err.print(saying))
        out.print(str(files.card), no_wrap=True)
