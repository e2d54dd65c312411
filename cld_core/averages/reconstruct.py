"""Reconstruction of an average of another length from stored ones."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from cld_core.checkpoint import contents
from cld_core.checkpoint.load import read_tensors
from cld_core.checkpoint.verify import mismatch
from cld_core.errors import CheckpointError
from cld_core.files import passes
from cld_core.run import RunFolder

from . import mixture
from .snapshots import TOLD_ABOVE, Stored

_log = logging.getLogger(__name__)


def average(
    run: RunFolder, step: int, length: float, trained: Mapping[str, Tensor], model_digest: str
) -> tuple[dict[str, Tensor], float]:
    """The average of a relative length for a checkpoint, and the relative error of its profile.

    Snapshots are read one after the other, and summed in float64 on the CPU. Damaged ones are left out, and the weights
    are fitted again without them.

    Args:
        trained: the trainable parameters by name, for their shapes and dtypes.
        model_digest: that of the recipe; snapshots of another model are damaged.

    Raises:
        UsageError: the checkpoint has no averages, or the length is out of reach.
        CheckpointError: the checkpoint itself is damaged.
        OSError: a file cannot be read at this moment.
    """
    damaged: set[int] = set()
    while True:
        mixed = mixture.of(run, step, length, damaged)
        if not (found := {part.step: why for part, _ in mixed.parts if (why := _problem(part)) is not None}):
            break
        if step in found:
            raise CheckpointError(f"{run.checkpoint_file(step)}: {found[step]}. Use another step.")
        for bad, why in found.items():
            _log.warning("skipped the snapshot of averages of step %d: %s", bad, why)
        damaged |= found.keys()
    if damaged or mixed.error > TOLD_ABOVE:
        _log.warning("%s", mixed.described)
    total = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in trained.items()}
    for part, weights in mixed.parts:
        _add(total, part, weights, model_digest)
    return {name: total[name].to(tensor.dtype) for name, tensor in trained.items()}, mixed.error


def _problem(part: Stored) -> str | None:
    try:
        return mismatch(part.path, part.sidecar)
    except OSError as error:
        if passes(error):
            raise
        return f"it cannot be read ({error.strerror})"


def _add(total: dict[str, Tensor], part: Stored, weights: Mapping[str, float], model_digest: str) -> None:
    """Add the averages of one file, by their weights, to the sum."""
    state = read_tensors(part.path)
    if state.get("model_digest") != model_digest:
        raise CheckpointError(f"{part.path}: belongs to another recipe. Move it to the run it came from.")
    for key, weight in weights.items():
        found = contents.power_average(state, key)
        if {name: tensor.shape for name, tensor in found.items()} != {n: t.shape for n, t in total.items()}:
            raise CheckpointError(f"{part.path}: its averages are not those of this network. Remove the file.")
        for name, tensor in found.items():
            total[name].add_(tensor.double(), alpha=weight)
