"""Exported weights: tensors and their description in one safetensors file."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cld_core.errors import CheckpointError, NotFoundError
from cld_core.run.atomic import replacing
from cld_core.version import __version__

FORMAT = "cldctl-weights/1"


def write(file: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Replace ``file`` by the tensors, with ``about``, the format and the version of cldctl as metadata."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(file.absolute()) as out:
        out.write(save(plain, {"format": FORMAT, "version": __version__, **about}))


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the metadata of a file that `write` made.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: it is another kind of file.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise NotFoundError(f"{file}: no such file. `cldctl export` writes one.")
    try:
        with safe_open(file, "pt") as content:
            about = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error}). Export it again: `cldctl export`.") from error
    if about.get("format") != FORMAT:
        other = about.get("format", "none")
        raise CheckpointError(f"{file}: its format is {other}, not {FORMAT}. Use a file that `cldctl export` wrote.")
    return tensors, about
