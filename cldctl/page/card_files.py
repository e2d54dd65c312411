"""A model card as files: the card, a picture of samples and the weights, which refer to each other by name."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cld_core.errors import CldError, UsageError
from cld_core.run import RunFolder
from cld_core.run.atomic import replacing, write_text
from cld_core.small_files import by_age, read_bytes
from cld_core.texts import has_control

from .model_card import LIBRARY
from .pictures import PNG, content_of

if TYPE_CHECKING:
    from cld_core.model import Model

# The files in a folder, as Hugging Face and others expect them.
_CARD, _PICTURE, _WEIGHTS = "README.md", "samples.png", "model.safetensors"


@dataclass(frozen=True)
class CardFiles:
    """Where card, picture and weights go."""

    card: Path
    picture: Path
    weights: Path

    @property
    def weights_name(self) -> str:
        """The weights as the card names them: by their name, beside it or not."""
        return self.weights.name


def places(wish: Path, weights: Path | None, default: Path) -> CardFiles:
    """Where the files of ``--card`` go: into a folder, or beside a file that ends in .md.

    Args:
        weights: what ``-o`` says.
        default: the weights without it, unless they are in the folder.

    Raises:
        UsageError: nothing can be written there, or somebody's own file would be lost.
    """
    if has_control(str(wish)):
        raise UsageError("--card: the name has control characters. Use another one.")
    if wish.suffix == ".md":
        files = CardFiles(wish, wish.with_suffix(".png"), weights or default)
        if not os.path.isdir(wish.absolute().parent):
            raise UsageError(f"--card {wish}: there is no folder {wish.absolute().parent}. Create it first.")
    elif os.path.lexists(wish) and not os.path.isdir(wish):
        raise UsageError(f"--card {wish}: it is a file. Name a folder, or a file that ends in .md.")
    else:
        files = CardFiles(wish / _CARD, wish / _PICTURE, weights or wish / _WEIGHTS)
    if os.path.lexists(files.card):
        if not _is_card(files.card):
            raise UsageError(f"--card {wish}: {files.card} is not a card that cldctl wrote. Use another name.")
        return files
    # The other files belong to a card of cldctl, or they are somebody's own; what -o names is meant to be replaced.
    others = [files.picture] if weights is not None or wish.suffix == ".md" else [files.picture, files.weights]
    for file in others:
        if os.path.lexists(file):
            raise UsageError(f"--card {wish}: {file} exists, and no card is beside it. Use another name, or remove it.")
    return files


def make_folder(files: CardFiles) -> None:
    """Make the folder of a card.

    Raises:
        CldError: it cannot be made.
    """
    try:
        files.card.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CldError(f"{files.card.parent}: it cannot be made ({error.strerror}). Use another folder.") from error


def write_picture(run: RunFolder, model: "Model", target: Path, drawing: Callable[[], None]) -> None:
    """Write a picture of samples of the weights, drawn as the recipe says: one that the run has, or else a new one.

    Args:
        drawing: is called before samples are drawn, which may take long.
    """
    from cld_core.evaluation import pictures

    for file in reversed(by_age(_pictures(run, model))):
        if (content := content_of(file)).startswith(PNG):
            with replacing(target.absolute()) as out:
                out.write(content)
            return
    drawing()
    pictures.samples(model, target.absolute(), batch_size=model.recipe.eval.batch_size)


def write_card(files: CardFiles, text: str) -> None:
    write_text(files.card.absolute(), text)


def _pictures(run: RunFolder, model: "Model") -> list[Path]:
    """Pictures that the run may have of these weights: that of the training, and that of `cldctl sample` as it is.

    Pictures of `cldctl sample` with other settings are not what the recipe gives. No link of a folder leads out of the
    run.
    """
    from cld_core.evaluation import pictures

    if not run.samples.resolve().is_relative_to(run.path.resolve()):
        return []
    # The training draws from its usual average.
    periodic = [pictures.periodic_name(model.step)] if model.ema_length is None else []
    names = (*periodic, pictures.name_of(model, pictures.default_count(model)))
    return [file for name in names if os.path.lexists(file := run.samples / name)]


def _is_card(file: Path) -> bool:
    try:
        head = read_bytes(file, limit=2**20, follow=True).decode(errors="replace").partition("\n---\n")[0]
    except OSError:
        return False
    return head.startswith("---\n") and f"\nlibrary_name: {LIBRARY}\n" in f"{head}\n"
