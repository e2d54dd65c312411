"""`cldctl export`: averaged weights and recipe in one file, and a model card beside them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.recipe.ema import EmaSpec
from cldctl.show.console import err, out
from cldctl.show.progress import Working

from .options import AllowPlugin, Checkpoint, Run, RunsDir, check_output, find_run, runs_dir

if TYPE_CHECKING:
    from cldctl.page.model_card import CardFiles


def export(
    run: Run = None,
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
    checkpoint: Checkpoint = "last",
    ema_length: Annotated[
        float | None,
        typer.Option(metavar="LENGTH", help="The average of this relative length, made of those of train.ema_lengths."),
    ] = None,
    allow_plugin: AllowPlugin = False,
    directory: RunsDir = None,
) -> None:
    """Write the averaged weights and the recipe of a checkpoint as safetensors, for `cld_core.load(FILE)`.

    Example: cldctl export cifar10-0102-101112-ab12 -o cifar10.safetensors

    Example: cldctl export cifar10-0102-101112-ab12 --card cifar10/ --license cc-by-4.0
    """
    from cld_core.errors import UsageError
    from cldctl.page import model_card

    licence = None if license_ is None else model_card.licence(license_)
    folder = find_run(run, runs_dir(directory))
    target = output or Path(f"{folder.name}.safetensors")
    check_output(target, (".safetensors",), "weights are")
    files: CardFiles | None = None
    if card is not None:
        files = model_card.places(card, output, target)
        target = files.weights
    elif licence is not None:
        raise UsageError("--license is part of a card. Add --card FOLDER, or leave it out.")

    with Working(f"loading {folder.name}") as working:
        import cld_core

        model = cld_core.load(folder.path, checkpoint, "cpu", allow_plugin=allow_plugin, ema_length=ema_length)
        if files is not None:
            model_card.make_folder(files)
        working.phase(f"writing {target.name}")
        model.export(target)
    step = ", ".join(filter(None, [f"step {model.step}", EmaSpec(length=ema_length).words]))
    err.print(f"averaged weights of {step} of {folder.name}, {target.stat().st_size / 2**20:.1f} MiB")
    out.print(str(target), markup=False, no_wrap=True)
    if files is not None:
        saying = f"drawing samples of step {model.step}, of which the run has no picture"
        model_card.write(folder, model, files, licence or "unknown", lambda: err.print(saying))
        out.print(str(files.card), markup=False, no_wrap=True)
