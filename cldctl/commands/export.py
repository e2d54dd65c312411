"""`cldctl export`: averaged weights and recipe in one file, and a model card beside them."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cldctl.ui.console import err, out
from cldctl.ui.progress import Working

from .options import AllowPlugin, Checkpoint, Run, RunsDir, check_output, find_run, runs_dir

if TYPE_CHECKING:
    from cld_core.model import Model
    from cld_core.run import RunFolder
    from cldctl.page.card_files import CardFiles

# Licences that Hugging Face lists and SPDX does not, and for suggestions those that people choose for weights.
_NOT_OF_SPDX = ("other", "unknown", "openrail", "bigscience-openrail-m", "creativeml-openrail-m")
_ONE = re.compile(r"[a-z0-9.-]+")
_USUAL = ("apache-2.0", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "gpl-3.0-only", "mit")


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
    allow_plugin: AllowPlugin = False,
    directory: RunsDir = None,
) -> None:
    """Write the averaged weights and the recipe of a checkpoint as safetensors, for `cld_core.load(FILE)`.

    Example: cldctl export cifar10-0102-101112-ab12 -o cifar10.safetensors

    Example: cldctl export cifar10-0102-101112-ab12 --card cifar10/ --license cc-by-4.0
    """
    from cld_core.errors import UsageError

    licence = None if license_ is None else _licence(license_)
    folder = find_run(run, runs_dir(directory))
    target = output or Path(f"{folder.name}.safetensors")
    check_output(target, (".safetensors",), "weights are")
    files = None
    if card is not None:
        from cldctl.page import card_files

        files = card_files.places(card, output, target)
        target = files.weights
    elif licence is not None:
        raise UsageError("--license is part of a card. Add --card FOLDER, or leave it out.")

    with Working(f"loading {folder.name}") as working:
        import cld_core

        model = cld_core.load(folder.path, checkpoint, "cpu", allow_plugin=allow_plugin)
        if files is not None:
            card_files.make_folder(files)
        working.phase(f"writing {target.name}")
        model.export(target)
    err.print(f"averaged weights of step {model.step} of {folder.name}, {target.stat().st_size / 2**20:.1f} MiB")
    out.print(str(target), markup=False, soft_wrap=True)
    if files is not None:
        _write_card(folder, model, files, licence)
        out.print(str(files.card), markup=False, soft_wrap=True)


def _licence(text: str) -> str:
    """The identifier of a licence as Hugging Face writes it: that of SPDX in small letters, or one of a few others.

    Raises:
        UsageError: it is not one.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    from cld_core.errors import UsageError, did_you_mean
    from cld_core.texts import one_line

    word = text.strip().lower()
    if word in _NOT_OF_SPDX:
        return word
    try:
        # An expression of several licences, or a reference to a text elsewhere, names none that readers of cards know.
        if _ONE.fullmatch(word) and not word.startswith("licenseref-"):
            return canonicalize_license_expression(word).lower()
    except InvalidLicenseExpression:
        pass
    fix = did_you_mean(word[:60], (*_USUAL, *_NOT_OF_SPDX))
    expected = "It takes one identifier of https://spdx.org/licenses, such as cc-by-4.0 or mit, or 'other'"
    raise UsageError(f"--license '{one_line(text, 60)}' is not a licence that cards can name.{fix} {expected}.")


def _write_card(folder: "RunFolder", model: "Model", files: "CardFiles", license_: str | None) -> None:
    from cldctl.page import card_files
    from cldctl.page.model_card import Subject, card
    from cldctl.runs import survey
    from cldctl.runs.status import status_of

    def drawing() -> None:
        err.print(f"drawing samples of step {model.step}, of which the run has no picture")

    card_files.write_picture(folder, model, files.picture, drawing)
    about = Subject(
        step=model.step,
        parameters=sum(parameter.numel() for parameter in model.net.parameters()),
        shape=tuple(model.data_shape),
        is_image=model.is_image,
        weights=files.weights_name,
        picture=files.picture.name,
        license=license_ or "unknown",
    )
    row = status_of(folder, survey.of_runs([folder], max_age_s=survey.TO_LOOK_S))
    card_files.write_card(files, card(folder, row, about))
