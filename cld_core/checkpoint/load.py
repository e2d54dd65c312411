"""Reading checkpoints: verified first, with `weights_only`, and only those of the same model."""

from pathlib import Path
from typing import Any

import torch

from cld_core import faults
from cld_core.errors import CheckpointError
from cld_core.run import RunFolder
from cld_core.texts import one_line

from . import archive
from .verify import DamagedCheckpoint, newest_whole, verify


def load(folder: RunFolder, step: int, *, model_digest: str | None = None) -> dict[str, Any]:
    """The state of one verified checkpoint, on the CPU: its tensors are mapped, and read when they are used.

    Args:
        model_digest: that of the recipe (`Recipe.model_digest`); a checkpoint of another model is refused.

    Raises:
        NotFoundError: there is no checkpoint of this step.
        CheckpointError: it is damaged, from another version, or belongs to another recipe.
        OSError: it cannot be read at this moment.
    """
    verify(folder, step)
    path = folder.checkpoint_file(step)
    state = read_tensors(path)
    if model_digest is not None and state.get("model_digest") != model_digest:
        text = "belongs to another recipe (data, SDE, network, objective or optimiser differ)"
        raise CheckpointError(f"{path}: {text}. Move it to the run it came from.")
    return state


def read_tensors(path: Path) -> dict[str, Any]:
    """What is in a verified file, on the CPU: its tensors are mapped, and read when they are used.

    Raises:
        CheckpointError: it is not a dictionary of tensors and plain values.
        OSError: it cannot be read at this moment.
    """
    try:
        archive.require_plain(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # What passes says nothing about the file.
        for met in (error, error.__cause__):
            if isinstance(met, OSError) and faults.passes(met):
                raise met from None
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({one_line(error)}). Resume from another step."
        ) from error
    if not isinstance(state, dict):
        text = f"holds a {type(state).__name__} instead of the state of a run. Resume from another step."
        raise CheckpointError(f"{path}: {text}")
    return state


def newest_good(folder: RunFolder, model_digest: str | None = None) -> tuple[int | None, list[DamagedCheckpoint]]:
    """The newest step whose checkpoint is intact, and the damaged ones above it.

    Raises:
        CheckpointError: the newest intact one belongs to another recipe; older ones would, too.
        OSError: as `newest_whole`.
    """
    step, damaged = newest_whole(folder)
    if step is not None and model_digest is not None:
        load(folder, step, model_digest=model_digest)
    return step, damaged
