"""Sets of images as training and evaluation read them: uint8, by index, mirrored on demand."""

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cld_core.errors import DataError
from cld_core.sanitize import one_line

from .lmdb_images import LmdbReader, published
from .store import ABOUT, CHANNELS, IMAGES, PUBLISHED, About, Split, digest, find, prepare_hint

Cache = Literal["auto", "memory", "disk"]

# A set larger than this stays on disk: every rank of a machine holds its own copy.
MEMORY_BYTES = 2 << 30
# The share of a GPU's free memory that a set may take.
_DEVICE_SHARE = 0.1
_LOAD_AT_ONCE = 1024


def to_model(images: Tensor) -> Tensor:
    """uint8 images of any shape as the float32 in [-1, 1] that the model works with: x / 127.5 - 1."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_pixels(x: Tensor, *, floor: bool = False) -> Tensor:
    """Images in [-1, 1] of any shape as uint8, rounded to the nearest grey level.

    What lies outside, infinities included, becomes 0 or 255; what is not a number becomes 0.

    Args:
        floor: floor(255 (x + 1)/2) instead, as the published code does it: half a level darker.
    """
    levels = (x.float() + 1.0) * 127.5
    levels = (levels if floor else levels + 0.5).clamp(0.0, 255.0).floor()
    # Converting NaN to an integer is undefined.
    return levels.nan_to_num_(nan=0.0).to(torch.uint8)


class ImageSet(ABC):
    """Images of the same size, by index.

    Attributes:
        n: number of images.
        shape: (C, H, W) of each.
        in_memory: a batch needs no reading.
        device: where batches are made.
    """

    n: int
    shape: tuple[int, ...]
    in_memory = False
    device = torch.device("cpu")

    @abstractmethod
    def take(self, indices: Tensor) -> Tensor:
        """Images by index; may be called by any number of threads.

        Args:
            indices: integers of shape (B,), each in [0, n).

        Returns:
            uint8 of shape (B, C, H, W) on ``device``, the caller's own.
        """

    def batch(self, indices: Tensor, flips: Tensor | None = None) -> Tensor:
        """As `take`, with those mirrored left to right that ``flips`` says, bool of shape (B,); None: none."""
        chosen = self.take(indices)
        return chosen if flips is None else _mirror(chosen, flips.to(self.device, non_blocking=True))


class MemoryImages(ImageSet):
    """Images held as one uint8 tensor of shape (n, C, H, W), on the host or on a GPU, and indexed there."""

    in_memory = True

    def __init__(self, images: Tensor) -> None:
        self._images, self.device = images, images.device
        self.n, *shape = images.shape
        self.shape = tuple(shape)

    def take(self, indices: Tensor) -> Tensor:
        return self._images.index_select(0, indices.to(self.device, non_blocking=True))


class MappedImages(ImageSet):
    """Prepared images on disk, read through a memory map."""

    def __init__(self, root: Path, about: About, rows: slice) -> None:
        path = root / IMAGES
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read as an array ({one_line(error)}).") from error
        if (images.dtype, images.shape) != (np.dtype(np.uint8), about.shape):
            text = f"{images.dtype} of shape {images.shape}, but {ABOUT} says uint8 of shape {about.shape}"
            raise DataError(f"{path} has {text}.")
        # An array of numpy's own type, whose parts are copies in memory and not maps.
        self._images = np.asarray(images)[rows]
        self.n, self.shape = len(self._images), about.shape[1:]

    def take(self, indices: Tensor) -> Tensor:
        return torch.from_numpy(self._images[indices.numpy()])


class LmdbImages(ImageSet):
    """Images of the published form, read from an LMDB file."""

    def __init__(self, reader: LmdbReader) -> None:
        self._reader = reader
        self.n, self.shape = reader.n, (CHANNELS, reader.size, reader.size)

    def take(self, indices: Tensor) -> Tensor:
        return torch.from_numpy(self._reader.read(indices.tolist()))


def _mirror(images: Tensor, flips: Tensor) -> Tensor:
    # Selects from both forms: on CPUs five times faster than torch.where, which broadcasts byte by byte.
    n = len(images)
    both = torch.cat([images, images.flip(-1)])
    return both.index_select(0, torch.arange(n, device=images.device) + n * flips)


def open_images(
    path: str | Path,
    split: Split,
    *,
    name: str = "folder",
    size: int | None = None,
    cache: Cache = "auto",
    device: torch.device | str = "cpu",
) -> ImageSet:
    """Open a split of a prepared data set, or of LMDB files in the published form.

    Args:
        path: the folder that `prepare` made, or one with ``train.lmdb`` and ``validation.lmdb`` in it.
        split: "train" or "validation".
        name: the data set of the recipe; "folder" accepts any.
        size: height and width in pixels; None accepts any.
        cache: "memory" loads the images, "disk" leaves them there, "auto" loads sets up to `MEMORY_BYTES`.
        device: where images in memory are wanted; a set that would fill too much of a GPU stays on the host.

    Raises:
        DataError: there is no such data set, or it is a different one. The message names the command that prepares it.
    """
    about = find(path, name, size)
    root = Path(path).expanduser()
    try:
        on_disk = _on_disk(root, about, split)
        n_bytes = on_disk.n * math.prod(on_disk.shape)
        if cache == "disk" or (cache == "auto" and n_bytes > MEMORY_BYTES):
            return on_disk
        images = _load(on_disk)
        if about.format != PUBLISHED and digest(images.numpy()) != about.splits[split].digest:
            raise DataError(f"the {split} images in {root} do not have the digest in {ABOUT}: they were changed.")
    except DataError as error:
        raise DataError(f"{error} To prepare it: {prepare_hint(name, path)}") from error
    return MemoryImages(images.to(device) if _fits(n_bytes, torch.device(device)) else images)


def _on_disk(root: Path, about: About, split: Split) -> ImageSet:
    rows = about.rows(split)
    reader = published(root, split) if about.format == PUBLISHED else None
    return MappedImages(root, about, rows) if reader is None else LmdbImages(reader)


def _load(images: ImageSet) -> Tensor:
    """All images, uint8 of shape (n, C, H, W)."""
    loaded = torch.empty((images.n, *images.shape), dtype=torch.uint8)
    for first in range(0, images.n, _LOAD_AT_ONCE):
        last = min(first + _LOAD_AT_ONCE, images.n)
        loaded[first:last] = images.take(torch.arange(first, last))
    return loaded


def _fits(n_bytes: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return device.type == "cpu"
    free, _ = torch.cuda.mem_get_info(device)
    return n_bytes <= _DEVICE_SHARE * free
