"""Reading checkpoints: verified first, with `weights_only`, and only those of the same model."""

import logging
from pathlib import Path
from typing import Any

import torch

from cld_core.errors import CheckpointError, NotFoundError
from cld_core.files import passes
from cld_core.run import RunFolder
from cld_core.sanitize import is_count, one_line

from . import archive
from .verify import DamagedCheckpoint, newest_whole, verify

_log = logging.getLogger(__name__)


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
            if isinstance(met, OSError) and passes(met):
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


def pick_checkpoint(folder: RunFolder, model_digest: str, checkpoint: int | str) -> int:
    """The step that ``checkpoint`` (a step or "last") means.

    Raises:
        NotFoundError: the run has no such checkpoint, or none at all.
    """
    if str(checkpoint) != "last":
        if is_count(str(checkpoint)):
            return int(checkpoint)
        steps = ", ".join(map(str, folder.checkpoint_steps())) or "none"
        text = f"'{one_line(str(checkpoint))}' is not a checkpoint of {folder.name}"
        raise NotFoundError(f"{text}. Use 'last' or a step; existing ones: {steps}.")
    step, damaged = newest_good(folder, model_digest)
    for entry in damaged:
        if entry.finished:
            _log.warning("%s", entry.skipped)
    if step is None:
        why = f": {damaged[0].reason}" if damaged else ""
        train = f"`cldctl resume {folder.name}`"
        fix = f"Train it again: {train}" if damaged else f"Wait for the first one, or if the run has stopped: {train}"
        raise NotFoundError(f"{folder.path} has no usable checkpoint yet{why}. {fix}.")
    return step
