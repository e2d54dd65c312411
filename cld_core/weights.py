"""Averaged weights and their recipe in one safetensors file: all that sampling and evaluating need."""

import json
from pathlib import Path

import torch

from . import __version__
from .errors import CheckpointError, NotFoundError, RecipeError
from .model import Model
from .recipe import from_dict
from .run.atomic import replacing

FORMAT = "cldctl-weights/1"


def save(model: Model, file: Path) -> None:
    """Write the weights of a model that `cld_core.load` gave, with recipe, step and version as metadata."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.net.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "step": str(model.step),
        "weights": "ema",
        "recipe": json.dumps(model.recipe.to_dict()),
    }
    with replacing(file.absolute()) as out:
        out.write(save(tensors, metadata))


def load(file: str | Path, device: torch.device | str | None = None) -> Model:
    """The model of a file that `save` wrote; see `cld_core.load`.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: it is no such file, or its tensors are not those of its recipe.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(file)
    if not file.is_file():
        raise NotFoundError(f"there is no file {file}. `cldctl export` writes one.")
    try:
        with safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error}). Export it again: `cldctl export`.") from error
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "none")
        raise CheckpointError(f"{file}: its format is {found}, not {FORMAT}. Use a file that `cldctl export` wrote.")
    try:
        recipe = from_dict(json.loads(metadata["recipe"]), str(file))
        model = Model(recipe, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model.net.load_state_dict(tensors, strict=True)
        model.step = int(metadata["step"])
    except (KeyError, ValueError, RuntimeError, RecipeError) as error:
        raise CheckpointError(f"{file}: recipe and tensors do not go together: {error}. Export it again.") from error
    model.net.requires_grad_(False)
    return model
