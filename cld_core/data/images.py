"""Images as training and evaluation use them: sets of uint8 by index, batches of a step, and dequantised test images.

Training is one endless sequence of epochs, each a fresh permutation keyed by (seed, epoch). Step s takes positions
s B to (s + 1) B - 1, where B is the global batch, and each rank takes a slice of them. So the images of a step depend
on the step alone: not on the ranks, and not on where training was interrupted.
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cld_core import seeds
from cld_core.classes import Classes
from cld_core.config.data import ImageDataSpec
from cld_core.errors import DataError
from cld_core.sanitize import one_line

from . import store, toy
from .store import ABOUT, IMAGES, PUBLISHED, About, LmdbReader, Split, blake2b, find, prepare_hint, published

GREY_LEVELS = 256
# Batches that are read ahead.
_AHEAD = 4
# A set larger than this stays on disk: every rank of a machine holds its own copy.
MEMORY_BYTES = 2 << 30
# The share of a GPU's free memory that a set may take.
_DEVICE_SHARE = 0.1


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


class ImageSet:
    """Images of the same size, by index.

    Attributes:
        n: number of images.
        shape: (C, H, W) of each.
        in_memory: a batch needs no reading.
        device: where batches are made.
    """

    def __init__(self, images: "Tensor | np.ndarray | LmdbReader") -> None:
        """Images as uint8 of shape (n, C, H, W): a tensor in memory, on the host or on a GPU, or an array on disk."""
        self._images = images
        self.n: int = images.shape[0]
        self.shape, self.in_memory = tuple(images.shape[1:]), isinstance(images, Tensor)
        self.device = images.device if isinstance(images, Tensor) else torch.device("cpu")

    def batch(self, indices: Tensor, flips: Tensor | None = None) -> Tensor:
        """Images by index; may be called by any number of threads.

        Args:
            indices: integers of shape (B,), each in [0, n).
            flips: which of them are mirrored left to right, bool of shape (B,); None: none.

        Returns:
            uint8 of shape (B, C, H, W) on ``device``, the caller's own.
        """
        if isinstance(self._images, Tensor):
            chosen = self._images.index_select(0, indices.to(self.device, non_blocking=True))
        else:
            chosen = torch.from_numpy(self._images[indices.numpy()])
        return chosen if flips is None else _mirror(chosen, flips.to(self.device, non_blocking=True))


def _mirror(images: Tensor, flips: Tensor) -> Tensor:
    # Selects from both forms: on CPUs five times faster than torch.where, which broadcasts byte by byte.
    n = len(images)
    both = torch.cat([images, images.flip(-1)])
    return both.index_select(0, torch.arange(n, device=images.device) + n * flips)


def open_images(spec: ImageDataSpec, split: Split, device: torch.device | str = "cpu") -> ImageSet:
    """Open a split of a recipe's images: of a prepared data set, or of LMDB files in the published form.

    They are loaded as `data.cache` says: "auto" loads sets up to `MEMORY_BYTES`.

    Args:
        device: where images in memory are wanted; a set that would fill too much of a GPU stays on the host.

    Raises:
        DataError: there is no such data set, or it is a different one. The message names the command that prepares it.
    """
    about = find(spec.path, spec.name, spec.pixels, spec.channels)
    root = Path(spec.path).expanduser()
    try:
        on_disk = _on_disk(root, about, split)
        n_bytes = on_disk.n * math.prod(on_disk.shape)
        if spec.cache == "disk" or (spec.cache == "auto" and n_bytes > MEMORY_BYTES):
            return on_disk
        images = on_disk.batch(torch.arange(on_disk.n))
        if about.format != PUBLISHED and blake2b(images.numpy()) != about.splits[split].digest:
            raise DataError(f"the {split} images in {root} do not have the digest in {ABOUT}: they were changed.")
    except DataError as error:
        raise DataError(f"{error} To prepare it: {prepare_hint(spec.name, spec.path, spec.pixels)}") from error
    return ImageSet(images.to(device) if _fits(n_bytes, torch.device(device)) else images)


def _on_disk(root: Path, about: About, split: Split) -> ImageSet:
    rows, path = about.rows(split), root / IMAGES
    if about.format == PUBLISHED and (reader := published(root, split)) is not None:
        return ImageSet(reader)
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as an array ({one_line(error)}).") from error
    if (images.dtype, images.shape) != (np.dtype(np.uint8), about.shape):
        text = f"{images.dtype} of shape {images.shape}, but {ABOUT} says uint8 of shape {about.shape}"
        raise DataError(f"{path} has {text}.")
    # An array of numpy's own type, whose parts are copies in memory and not maps.
    return ImageSet(np.asarray(images)[rows])


def _fits(n_bytes: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return device.type == "cpu"
    free, _ = torch.cuda.mem_get_info(device)
    return n_bytes <= _DEVICE_SHARE * free


def dequantise(images: Tensor, noise: Tensor) -> Tensor:
    """uint8 images with uniform noise in [0, 1), for densities: (k + noise)/128 - 1, float32 in [-1, 1).

    A density p of these has 7 bits less per dimension than its discretisation to 256 levels (docs/math.md section 8).
    """
    levels = images.to(torch.float32)
    # Noise near 1 would be rounded up to the next level. Multiples of 2^-16 levels are exact in float32.
    raised = torch.minimum(levels + noise, levels + (1.0 - 2.0**-16))
    return raised * (2.0 / GREY_LEVELS) - 1.0


@lru_cache(maxsize=4)
def _epoch(n: int, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """The permutation of an epoch, int64 of shape (n,), and which positions in it are mirrored, bool of shape (n,)."""
    order = torch.randperm(n, generator=seeds.generator(seed, "order", epoch))
    mirrored = torch.rand(n, generator=seeds.generator(seed, "mirror", epoch)) < 0.5
    return order, mirrored


def order(step: int, batch_size: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """The images of the global batch of a step, and which of them are mirrored left to right.

    A batch that crosses the end of an epoch continues with the next one.

    Returns:
        int64 of shape (batch_size,), each in [0, n), and bool of shape (batch_size,).
    """
    assert min(step + 1, batch_size, n) >= 1, f"no batch: step {step}, batch {batch_size}, images {n}"
    first, last = step * batch_size, (step + 1) * batch_size
    parts = [
        [of_all[max(first - epoch * n, 0) : last - epoch * n] for of_all in _epoch(n, seed, epoch)]
        for epoch in range(first // n, (last - 1) // n + 1)
    ]
    chosen, flips = map(torch.cat, zip(*parts, strict=True))
    return chosen, flips


class ImageSource:
    """A prepared data set. Order and mirroring are keyed by the seed and the step, never by ``restart``.

    So a resumed epoch shows every image once, even if each attempt gets fresh noise. Images that are on the source's
    device already are indexed there. Others are read ahead by threads, into pinned memory if the device is a GPU, and
    copied asynchronously.
    """

    density: toy.Toy | None = None
    grey_levels: int | None = GREY_LEVELS

    def __init__(self, spec: ImageDataSpec, device: torch.device | str = "cpu") -> None:
        self.wait_s = 0.0
        self._spec = spec
        self._root = Path(spec.path).expanduser()
        self._device = torch.device(device)
        self._pinned = self._device.type == "cuda"
        self._pool: ThreadPoolExecutor | None = None
        # Batches that are read ahead, by their arguments.
        self._ahead: dict[tuple[int, int, int, int, int], Future[Tensor]] = {}

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image.

        Raises:
            DataError: the recipe does not say it, and the images are missing.
        """
        if self._spec.shape is not None:
            return self._spec.shape
        try:
            return store.about_of(self._spec).shape[1:]
        except DataError:
            if self._spec.size is None:
                raise
            # Earlier versions had no grey images, and their recipes say the size alone.
            return (store.CHANNELS, self._spec.size, self._spec.size)

    @cached_property
    def classes(self) -> Classes | None:
        """Those of the images, with their numbers of training images as weights; None if the recipe wants no labels.

        Raises:
            DataError: the images are missing, or have no labels; names the command that prepares them.
        """
        if not self._spec.labels:
            return None
        names = store.about_of(self._spec).classes
        counts = torch.bincount(self._labels["train"], minlength=len(names))
        return Classes(names, tuple(counts.double().tolist()))

    @cached_property
    def _labels(self) -> dict[Split, Tensor]:
        """Those of each split."""
        about = store.about_of(self._spec)
        return {split: torch.from_numpy(store.read_labels(self._root, about, split)) for split in about.splits}

    @cached_property
    def train(self) -> ImageSet:
        """The training images.

        Raises:
            DataError: they are missing or not those of the recipe; names the command that prepares them.
        """
        return open_images(self._spec, "train", self._device)

    @cached_property
    def test(self) -> ImageSet:
        """The images of the validation split; raises as `train` does."""
        # Evaluation reads an image once in minutes: not worth the memory.
        return open_images(replace(self._spec, cache="disk"), "validation")

    def batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> Tensor:
        """As in `cld_core.data.source.Source`; float32 in [-1, 1] on the source's device. Steps in order are fast."""
        started = time.monotonic()
        wanted = [(seed, it, size, rows.start, rows.stop) for it in range(step, step + _AHEAD)]
        # For a set in memory on a CPU, threads would only take cores from the model.
        direct = self.train.in_memory and self.train.device.type == self._device.type
        images = self._read(*wanted[0]) if direct else self._read_ahead(wanted)
        self.wait_s = time.monotonic() - started
        return to_model(images.to(self._device, non_blocking=self._pinned))

    def _read_ahead(self, wanted: Sequence[tuple[int, int, int, int, int]]) -> Tensor:
        """The first of the wanted batches; the others are read meanwhile, and those that nobody wants are dropped."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._spec.threads, thread_name_prefix="images")
        for other in self._ahead.keys() - set(wanted):
            self._ahead.pop(other).cancel()
        for one in wanted:
            if one not in self._ahead:
                self._ahead[one] = self._pool.submit(self._read, *one)
        return self._ahead.pop(wanted[0]).result()

    def _read(self, seed: int, step: int, size: int, first: int, last: int) -> Tensor:
        chosen, flips = (of_all[first:last] for of_all in order(step, size, self.train.n, seed))
        if self._pinned:
            chosen, flips = chosen.pin_memory(), flips.pin_memory()
        batch = self.train.batch(chosen, flips if self._spec.flip else None)
        return batch.pin_memory() if self._pinned and batch.device.type == "cpu" else batch

    def labelled_batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> tuple[Tensor, Tensor]:
        """As `batch`, with the labels, which are on the CPU."""
        x = self.batch(seed, restart, step, size, rows)
        return x, self._labels["train"][order(step, size, self.train.n, seed)[0][rows]]

    def test_labels(self, seed: int, first: int, last: int) -> Tensor:
        """The labels of the validation images ``first <= i < last``."""
        return self._labels["validation"][first:last]

    def dequantised_test_data(self, seed: int, first: int, last: int) -> Tensor:
        """Validation images ``first <= i < last``, dequantised; image i has its own noise.

        Raises:
            DataError: there are fewer.
        """
        images = self._test_images(first, last)
        noise = seeds.SampleNoise(seed, "dequantise", first=first, last=last).uniform(self.shape)
        return dequantise(images, noise)

    def test_data(self, seed: int, first: int, last: int) -> Tensor:
        """Validation images ``first <= i < last`` as training sees its own; raises as `dequantised_test_data` does."""
        return to_model(self._test_images(first, last))

    def _test_images(self, first: int, last: int) -> Tensor:
        if last > self.test.n:
            raise DataError(
                f"{self._spec.path} has {self.test.n} validation images, fewer than the {last} asked for. "
                f"Evaluate at most that many: eval.points={self.test.n}, periodic.elbo_points={self.test.n}."
            )
        return self.test.batch(torch.arange(first, last))

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._ahead.clear()
