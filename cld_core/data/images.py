"""Sets of images as training and evaluation read them: uint8, by index, mirrored on demand."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cld_core.data.lmdb_store import LmdbReader
from cld_core.data.store import (
    CHANNELS,
    Checksum,
    Manifest,
    SplitInfo,
    lmdb_path,
    partial_path,
    prepare_hint,
    published_paths,
    read_manifest,
)
from cld_core.errors import DataError

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

    in_memory: bool
    n: int
    shape: tuple[int, int, int]
    device: torch.device

    @abstractmethod
    def batch(self, indices: Tensor, flips: Tensor | None = None) -> Tensor:
        """Images by index.

        Args:
            indices: integers of shape (B,), each in [0, n).
            flips: bool of shape (B,), which images to mirror left to right; None: none.

        Returns:
            uint8 of shape (B, C, H, W) on ``device``.
        """


class MemoryImages(ImageSet):
    """Images held as one uint8 tensor of shape (n, C, H, W), on the host or on a GPU, and indexed there."""

    in_memory = True

    def __init__(self, images: Tensor) -> None:
        assert images.dtype == torch.uint8, f"images of {images.dtype}"
        assert images.ndim == 4, f"images of shape {tuple(images.shape)}"
        self._images = images
        self.n = len(images)
        self.shape = (images.shape[1], images.shape[2], images.shape[3])
        self.device = images.device

    def batch(self, indices: Tensor, flips: Tensor | None = None) -> Tensor:
        chosen = self._images.index_select(0, indices.to(self.device, non_blocking=True))
        return chosen if flips is None else _mirror(chosen, flips.to(self.device, non_blocking=True))


class LmdbImages(ImageSet):
    """Images read from an LMDB folder when they are requested, by any number of threads."""

    in_memory = False
    device = torch.device("cpu")

    def __init__(self, reader: LmdbReader, n: int, shape: tuple[int, int, int]) -> None:
        self._reader = reader
        self.n = n
        self.shape = shape

    def batch(self, indices: Tensor, flips: Tensor | None = None) -> Tensor:
        channels, height, width = self.shape
        raw = self._reader.read(indices.tolist(), channels * height * width)
        images = raw.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
        if flips is not None:
            images = np.where(flips.numpy()[:, None, None, None], images[..., ::-1], images)
        return torch.from_numpy(np.ascontiguousarray(images))


def _mirror(images: Tensor, flips: Tensor) -> Tensor:
    # Selects from both forms: on CPUs five times faster than torch.where, which broadcasts byte by byte.
    n = len(images)
    both = torch.cat([images, images.flip(-1)])
    return both.index_select(0, torch.arange(n, device=images.device) + n * flips)


def open_images(
    path: str | Path,
    split: str,
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
    root = Path(path).expanduser()
    try:
        manifest = read_manifest(root)
        reader, info, found_size = _open_split(root, split, manifest)
        if manifest is not None and name not in ("folder", manifest.name):
            raise DataError(f"{root} holds {manifest.name}, not {name}.")
        if size is not None and found_size != size:
            raise DataError(f"{root} has images of {found_size}x{found_size}, not {size}x{size}.")
        shape = (CHANNELS, found_size, found_size)
        n = info.count if info is not None else reader.entries
        _check_images(reader, n, CHANNELS * found_size * found_size, info)
        n_bytes = n * CHANNELS * found_size * found_size
        if cache == "disk" or (cache == "auto" and n_bytes > MEMORY_BYTES):
            return LmdbImages(reader, n, shape)
        images = _load(reader, n, shape, info)
    except DataError as error:
        raise DataError(f"{error} To prepare it: {prepare_hint(name, path)}") from error
    return MemoryImages(images.to(device) if _fits(n_bytes, torch.device(device)) else images)


def _open_split(root: Path, split: str, manifest: Manifest | None) -> tuple[LmdbReader, SplitInfo | None, int]:
    """The reader of a split, its entry in the manifest, and the size of its images in pixels."""
    if manifest is not None:
        if split not in manifest.splits:
            raise DataError(f"{root} has no {split} split, only {', '.join(manifest.splits)}.")
        info, path = manifest.splits[split], lmdb_path(root, split)
        _require_size(path, info)
        return LmdbReader(path), info, manifest.size
    for folder in published_paths(root, split):
        if (folder / "data.mdb").is_file():
            reader = LmdbReader(folder)
            return reader, None, reader.published_size()
    if partial_path(root).is_dir():
        raise DataError(
            f"The preparation of {root} is unfinished; {partial_path(root)} holds the finished part. Run the command "
            "that prepares it again to continue from there."
        )
    what = "does not exist" if not root.exists() else f"has neither a manifest nor {split}.lmdb"
    raise DataError(f"The data set {root} {what}.")


def _require_size(path: Path, info: SplitInfo) -> None:
    """The file of a split has the size that the manifest promises; a missing one is the reader's to report."""
    try:
        there = (path / "data.mdb").stat().st_size
    except OSError:
        return
    if there != info.file_bytes:
        raise DataError(
            f"The LMDB file {path}/data.mdb has {there} bytes; its manifest says {info.file_bytes}. It was copied "
            "incompletely or changed."
        )


def _check_images(reader: LmdbReader, n: int, image_bytes: int, info: SplitInfo | None) -> None:
    """Cheap checks that detect a wrong or half-copied file before training starts."""
    if info is not None and reader.entries != info.count:
        raise DataError(
            f"{reader.path} has {reader.entries} images; its manifest says {info.count}. It was copied incompletely "
            "or changed."
        )
    for index in (0, n - 1):
        length = reader.length(index)
        if length != image_bytes:
            raise DataError(f"Image {index} of {reader.path} has {length or 0} bytes, not {image_bytes}.")


def _load(reader: LmdbReader, n: int, shape: tuple[int, int, int], info: SplitInfo | None) -> Tensor:
    """All images, uint8 of shape (n, C, H, W), checked against the checksum in the manifest."""
    channels, height, width = shape
    images = torch.empty((n, *shape), dtype=torch.uint8)
    checksum = Checksum()
    for first in range(0, n, _LOAD_AT_ONCE):
        indices: Sequence[int] = range(first, min(first + _LOAD_AT_ONCE, n))
        raw = reader.read(indices, channels * height * width)
        for image in raw:
            checksum.add(image.tobytes())
        pixels = np.ascontiguousarray(raw.reshape(-1, height, width, channels).transpose(0, 3, 1, 2))
        images[first : first + len(indices)] = torch.from_numpy(pixels)
    if info is not None and checksum.state != info.checksum:
        raise DataError(f"The images in {reader.path} do not have the checksum in the manifest: they were changed.")
    return images


def _fits(n_bytes: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return device.type == "cpu"
    free, _ = torch.cuda.mem_get_info(device)
    return n_bytes <= _DEVICE_SHARE * free
