"""Exported weights: tensors and their description in one safetensors file."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cld_core.errors import CheckpointError, NotFoundError
from cld_core.files import replacing
from cld_core.sanitize import one_line
from cld_core.version import __version__

FORMAT = "cldctl-weights/1"
_KINDS = ("F16", "BF16", "F32", "F64")
_FIX = "Export it again: `cldctl export`"


def write(file: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Replace ``file`` by the tensors, with ``about``, the format and the version of cldctl as metadata."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(file.absolute()) as out:
        out.write(save(plain, {"format": FORMAT, "version": __version__, **about}))


class Weights:
    """An open file that `write` made: nothing of its tensors is read before `tensors`.

    Attributes:
        about: the metadata.
        shapes: of the tensors, by name.
    """

    def __init__(self, file: Path, content: Any) -> None:
        self.about: dict[str, str] = content.metadata() or {}
        self._file, self._content = file, content
        self._require_format()
        slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118 (not a mapping)
        for name, part in slices.items():
            if part.get_dtype() not in _KINDS:
                kind = f"tensor {one_line(name, 80)!r} is of kind {part.get_dtype()}, not one of {', '.join(_KINDS)}"
                raise CheckpointError(f"{file}: {kind}. {_FIX}.")
        self.shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}

    def _require_format(self) -> None:
        other = self.about.get("format", "none")
        if other != FORMAT:
            text = f"its format is {one_line(other, 40)}, not {FORMAT}. Use a file that `cldctl export` wrote."
            raise CheckpointError(f"{self._file}: {text}")

    def tensors(self) -> dict[str, Tensor]:
        """All of them, on the CPU."""
        return {name: self._content.get_tensor(name) for name in self.shapes}


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Weights]:
    """A file that `write` made.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: it is another kind of file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise NotFoundError(f"{file}: no such file. `cldctl export` writes one.")
    try:
        with safe_open(file, "pt") as content:
            yield Weights(file, content)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not a safetensors file ({one_line(error)}). {_FIX}.") from error
