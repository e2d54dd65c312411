"""Reading checkpoints and exported weights: with `weights_only`, as tensors on the CPU, and only what fits."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cld_core.errors import CheckpointError, NotFoundError
from cld_core.files import parse_json, passes
from cld_core.run import RunFolder
from cld_core.sanitize import one_line

from .files import verify, weights_file

# Of exported files.
FORMAT = "cldctl-weights/1"
# The entry of what is said about averaged weights beside a checkpoint.
ABOUT = "cldctl"
_EXPORT = "Export it again: `cldctl export`"


def load(folder: RunFolder, step: int, *, model_digest: str | None = None) -> dict[str, Any]:
    """The state of one verified checkpoint, on the CPU: its tensors are mapped, and read when they are used.

    Args:
        model_digest: that of the recipe (`Recipe.model_digest`); a checkpoint of another model is refused.

    Raises:
        NotFoundError: there is no checkpoint of this step.
        CheckpointError: it is damaged, from another version, or belongs to another recipe.
        OSError: it cannot be read at this moment.
    """
    verify(folder, step, model_digest=model_digest)
    path = folder.checkpoint_file(step)
    state, weights = read_tensors(path), averaged_weights(folder, step).tensors
    try:
        # Tensors that are not trained have no average.
        average = {name: weights[name] for name in state["ema"]["names"]}
        return {**state, "ema": {"updates": state["ema"]["updates"], "average": average}}
    except (KeyError, TypeError) as error:
        text = f"does not go with its averaged weights ({one_line(error)}). Resume from another step."
        raise CheckpointError(f"{path}: {text}") from error


def read_tensors(path: Path) -> dict[str, Any]:
    """What is in a verified file of `torch.save`, on the CPU: its tensors are mapped, and read when they are used.

    Raises:
        CheckpointError: it is not a dictionary of tensors and plain values.
        OSError: it cannot be read at this moment.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        if passes(error):  # What passes says nothing about the file.
            raise
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({one_line(error)}). Resume from another step."
        ) from error
    if not isinstance(state, dict):
        text = f"holds a {type(state).__name__} instead of the state of a run. Resume from another step."
        raise CheckpointError(f"{path}: {text}")
    return state


class Weights:
    """A safetensors file of weights.

    Attributes:
        about: its metadata.
        tensors: by name, on the CPU; mapped, and read when they are used.
    """

    def __init__(self, content: Any) -> None:
        self.about: dict[str, str] = content.metadata() or {}
        self.tensors: dict[str, Tensor] = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118

    def described(self, name: str) -> dict[str, Any]:
        """An object in the metadata.

        Raises:
            ValueError: it is missing, or not an object in JSON.
        """
        content = parse_json(self.about.get(name, ""))
        if not isinstance(content, dict):
            raise ValueError(f"its {name} is not a JSON object")
        return content


def averaged_weights(folder: RunFolder, step: int, length: float | None = None) -> Weights:
    """The averaged weights beside a checkpoint; the usual ones are verified by whoever chooses the checkpoint.

    Raises:
        CheckpointError: there are none of this length, or the file is damaged.
        OSError: it cannot be read at this moment.
    """
    return _read(weights_file(folder, step, length), "Use another step")


def exported_weights(file: Path) -> Weights:
    """The weights in a file that `cldctl export` wrote.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: it is another kind of file, or damaged.
    """
    if not file.is_file():
        raise NotFoundError(f"{file}: no such file. `cldctl export` writes one.")
    weights = _read(file, _EXPORT)
    if (other := weights.about.get("format", "none")) != FORMAT:
        text = f"its format is {one_line(other, 40)}, not {FORMAT}. Use a file that `cldctl export` wrote."
        raise CheckpointError(f"{file}: {text}")
    return weights


def _read(file: Path, fix: str) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as content:
            return Weights(content)
    except (SafetensorError, OSError) as error:
        if passes(error):
            raise
        raise CheckpointError(f"{file}: cannot be read as safetensors ({one_line(error)}). {fix}.") from error


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors on the CPU: their names, kinds, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
