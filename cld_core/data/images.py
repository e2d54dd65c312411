"""Stored examples for training and evaluation: by index, in batches of a step, and as test data.

Images are uint8 until they are used, and dequantised for densities. Arrays of real numbers are
scaled.

Training is one endless sequence of epochs, each a fresh permutation keyed by (seed, epoch). Step s
takes positions s B to (s + 1) B - 1, where B is the global batch, and each rank takes a slice of
them. So the images of a step depend on the step alone: not on the ranks, and not on where training
was interrupted.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from cld_core import seeds
from cld_core.classes import Classes
from cld_core.config.data import StoredDataSpec
from cld_core.config.keys import Shape
from cld_core.errors import DataError

from . import store, toy
from .arrays import MEMORY_BYTES, Arrays
from .format import GREY_LEVELS, DataFormat, Split
from .store import LmdbReader, Prepared

# Batches that are read ahead.
_AHEAD = 4
# Numbers that are read at once while a set is loaded.
_BLOCK = 1 << 24
# The share of a GPU's free memory that a set may occupy.
_DEVICE_SHARE = 0.1
_log = logging.getLogger(__name__)
# The key of a batch: seed, step, size of the global batch, and its first and last row on this rank.
_BatchKey = tuple[int, int, int, int, int]


def to_model(images: Tensor) -> Tensor:
    """uint8 images of any shape as the model sees them: x / 127.5 - 1, float32 in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_pixels(x: Tensor, *, floor: bool = False) -> Tensor:
    """Images in [-1, 1] of any shape as uint8, rounded to the nearest grey level.

    Numbers outside, infinities included, become 0 or 255; NaN becomes 0.

    Args:
        floor: floor(255 (x + 1)/2) instead, as in the published code: half a level darker.
    """
    levels = (x.float() + 1.0) * 127.5
    levels = (levels if floor else levels + 0.5).clamp(0.0, 255.0).floor()
    # Converting NaN to an integer is undefined.
    return levels.nan_to_num_(nan=0.0).to(torch.uint8)


def to_grey(x: Tensor, form: DataFormat, *, floor: bool = False) -> Tensor:
    """Data of any shape as uint8, see `to_pixels`.

    Real numbers are black at the minimum of the training data, and white at the maximum.
    """
    if form.grey_levels is None and form.bounds is not None:
        low, high = form.bounds
        x = (x.double() - low) / (0.5 * (high - low or 1.0)) - 1.0
    return to_pixels(x, floor=floor)


class ImageSet:
    """Images, or other examples, of the same shape, by index.

    Attributes:
        n: the number of images.
        shape: the shape of an image, (C, ...).
        in_memory: whether the images are in memory, so that batches are not read from disk.
        device: the device that batches are on.
    """

    def __init__(
        self,
        images: "Tensor | np.ndarray | LmdbReader",
        rows: np.ndarray | None = None,
        made_of: Callable[[np.ndarray], Tensor] = torch.from_numpy,
    ) -> None:
        """Images of shape (n, C, ...): a tensor in memory, on the host or on a GPU, or an array on
        disk.

        Args:
            rows: (n,), the rows of the array that belong to the set; None for all.
            made_of: makes a tensor of an array that was read.
        """
        self._images = images
        self._rows = rows
        self._made_of = made_of
        self.n: int = images.shape[0] if rows is None else len(rows)
        self.shape = tuple(images.shape[1:])
        self.in_memory = isinstance(images, Tensor)
        self.device = images.device if isinstance(images, Tensor) else torch.device("cpu")

    def batch(self, indices: Tensor, flips: Tensor | None = None) -> Tensor:
        """Images by index; may be called by any number of threads.

        Args:
            indices: integers of shape (B,), each in [0, n).
            flips: which of them are mirrored left to right, bool of shape (B,); None for none.

        Returns:
            uint8, or what ``made_of`` makes, of shape (B, C, ...) on ``device``; the caller may
            change it.
        """
        if isinstance(self._images, Tensor):
            chosen = self._images.index_select(0, indices.to(self.device, non_blocking=True))
        else:
            places = indices.numpy() if self._rows is None else self._rows[indices.numpy()]
            chosen = self._made_of(self._images[places])
        if flips is None:
            return chosen
        return _mirror(chosen, flips.to(self.device, non_blocking=True))


def _mirror(images: Tensor, flips: Tensor) -> Tensor:
    # Selecting from both forms is five times faster on CPUs than torch.where, which broadcasts byte
    # by byte.
    n = len(images)
    both = torch.cat([images, images.flip(-1)])
    return both.index_select(0, torch.arange(n, device=images.device) + n * flips)


def _fits(n_bytes: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return device.type == "cpu"
    free, _ = torch.cuda.mem_get_info(device)
    return n_bytes <= _DEVICE_SHARE * free


def dequantise(images: Tensor, noise: Tensor) -> Tensor:
    """uint8 images k with uniform noise in [0, 1): (k + noise)/128 - 1, float32 in [-1, 1).

    A density p of these has 7 bits less per dimension than its discretisation to 256 levels
    (docs/math.md section 8).
    """
    levels = images.to(torch.float32)
    # Noise near 1 would be rounded up to the next level. Multiples of 2^-16 levels are exact in
    # float32.
    raised = torch.minimum(levels + noise, levels + (1.0 - 2.0**-16))
    return raised * (2.0 / GREY_LEVELS) - 1.0


@lru_cache(maxsize=4)
def _epoch(n: int, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """The permutation of an epoch, int64 (n,), and which positions are mirrored, bool (n,)."""
    order = torch.randperm(n, generator=seeds.generator(seed, "order", epoch))
    mirrored = torch.rand(n, generator=seeds.generator(seed, "mirror", epoch)) < 0.5
    return order, mirrored


def order(step: int, batch_size: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """The images of the global batch of a step, and which of them are mirrored left to right.

    A batch that crosses the end of an epoch continues with the next one.

    Returns:
        int64 of shape (batch_size,), each in [0, n), and bool of shape (batch_size,).
    """
    assert min(step + 1, batch_size, n) >= 1, f"no batch: step {step}, {batch_size} of {n} images"
    first = step * batch_size
    last = first + batch_size
    chosen = []
    flips = []
    for epoch in range(first // n, (last - 1) // n + 1):
        permutation, mirrored = _epoch(n, seed, epoch)
        positions = slice(max(first - epoch * n, 0), last - epoch * n)
        chosen.append(permutation[positions])
        flips.append(mirrored[positions])
    return torch.cat(chosen), torch.cat(flips)


class StoredSource:
    """Examples by number, in files or in memory: images of uint8, or real numbers.

    Order and mirroring are keyed by the seed and the step, never by ``restart``. So a resumed epoch
    shows every example once, even if each attempt gets fresh noise. Examples that are on the
    source's device already are indexed there. Others are read ahead by threads, into pinned memory
    if the device is a GPU, and copied asynchronously.

    Args:
        given: examples in memory; None: the examples in the recipe's files.
    """

    density: toy.Toy | None = None

    def __init__(
        self,
        spec: StoredDataSpec,
        device: torch.device | str = "cpu",
        given: Prepared | Arrays | None = None,
    ) -> None:
        self.wait_s = 0.0
        self._spec = spec
        self._given = given
        self._form: DataFormat | None = None
        self._device = torch.device(device)
        self._pinned = self._device.type == "cuda"
        self._pool: ThreadPoolExecutor | None = None
        # Batches that are read ahead, by their arguments.
        self._ahead: dict[_BatchKey, Future[Tensor]] = {}

    @cached_property
    def examples(self) -> Prepared | Arrays:
        """The stored examples.

        Raises:
            DataError: they are missing or not those of the recipe.
        """
        return self._given or store.of(self._spec)

    @property
    def form(self) -> DataFormat:
        """The form that was set, such as a checkpoint's, or else one fitted to the examples.

        Raises:
            DataError: the form depends on the data, which are missing or cannot be used.
        """
        if self._form is None:
            form = self._outline
            if form.grey_levels is None and isinstance(self.examples, Arrays):
                form = self.examples.form(self._spec, _log.warning)
            self._form = form
        return self._form

    @form.setter
    def form(self, form: DataFormat) -> None:
        self._form = form
        for name in ("train", "test"):
            self.__dict__.pop(name, None)

    @property
    def _outline(self) -> DataFormat:
        """The form, perhaps without its scaling, so that no example is read.

        Raises:
            DataError: the form depends on the data, which are missing or cannot be used.
        """
        if self._form is not None:
            return self._form
        if (shape := self._spec.shape) is not None:
            return DataFormat(shape=shape, grey_levels=GREY_LEVELS)
        try:
            return DataFormat(shape=self.examples.shape, grey_levels=self.examples.grey_levels)
        except DataError:
            # Recipes of earlier versions, without grey images, have only the size.
            if (size := getattr(self._spec, "size", None)) is None:
                raise
            return DataFormat(shape=(store.CHANNELS, size, size), grey_levels=GREY_LEVELS)

    @property
    def shape(self) -> Shape:
        """The shape of one example, (C, ...).

        Raises:
            DataError: the shape depends on the data, which are missing or cannot be used.
        """
        return self._outline.shape

    @property
    def grey_levels(self) -> int | None:
        """The grey levels of an image; None for real numbers.

        Raises:
            DataError: they depend on the data, which are missing or cannot be used.
        """
        return self._outline.grey_levels

    @cached_property
    def classes(self) -> Classes | None:
        """The classes of the examples; None if the recipe uses no labels.

        Raises:
            DataError: the labels cannot be read.
        """
        return self.examples.classes if self._spec.labels else None

    @cached_property
    def _labels(self) -> Tensor:
        return torch.from_numpy(self.examples.labels("train"))

    @cached_property
    def _test_labels(self) -> Tensor:
        return torch.from_numpy(self.examples.labels("validation"))

    @cached_property
    def train(self) -> ImageSet:
        """The training examples.

        Raises:
            DataError: they are missing or not those of the recipe.
        """
        return self.opened("train", self._spec.cache)

    @cached_property
    def test(self) -> ImageSet:
        """The test examples.

        Raises:
            DataError: they are missing or not those of the recipe.
        """
        # They stay on disk, because evaluation rarely reads them.
        return self.opened("validation", "disk")

    def opened(self, split: Split, cache: str) -> ImageSet:
        """The examples of a split, on disk or in memory.

        A set that would fill too much of a GPU stays on the host.

        Args:
            cache: a value of `data.cache`; "auto" loads sets up to `MEMORY_BYTES`.

        Raises:
            DataError: they are missing, damaged, or not those of the form that was set.
        """
        data = self.examples
        form = self.form
        if (data.shape, data.grey_levels) != (form.shape, form.grey_levels):
            raise DataError(
                f"{data.where} has examples of shape {data.shape}, and the run began with "
                f"{form.shape}. Put back the data, or start a new run."
            )
        are_images = form.grey_levels is not None
        images, rows = data.stored(split)
        on_disk = ImageSet(images, rows, torch.from_numpy if are_images else self._scaled)
        dtype = torch.uint8 if are_images else torch.float32
        numbers = math.prod(form.shape)
        n_bytes = on_disk.n * numbers * dtype.itemsize
        if cache == "disk" or (cache == "auto" and n_bytes > MEMORY_BYTES):
            return on_disk
        examples = torch.empty(on_disk.n, *form.shape, dtype=dtype)
        for block in torch.arange(on_disk.n).split(max(1, _BLOCK // numbers)):
            examples[block] = on_disk.batch(block)
        data.verify(split, examples.numpy())
        return ImageSet(examples.to(self._device) if _fits(n_bytes, self._device) else examples)

    def _scaled(self, x: np.ndarray) -> Tensor:
        """Real numbers as the model sees them, float32.

        They are scaled in float64, unless float32 holds them exactly.
        """
        is_exact = x.dtype.itemsize < 4 or x.dtype == np.float32
        numbers = torch.from_numpy(x.astype(np.float32 if is_exact else np.float64))
        return self.form.to_model(numbers).float()

    def batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> Tensor:
        """See `cld_core.data.source.Source`; float32 on the source's device.

        Consecutive steps are fast, because their batches are read ahead.
        """
        started = time.monotonic()
        if self.train.in_memory and self.train.device.type == self._device.type:
            # Threads would only take cores from the model.
            images = self._read(seed, step, size, rows.start, rows.stop)
        else:
            images = self._read_ahead(
                [(seed, later, size, rows.start, rows.stop) for later in range(step, step + _AHEAD)]
            )
        self.wait_s = time.monotonic() - started
        return self._seen(images.to(self._device, non_blocking=self._pinned))

    def _seen(self, images: Tensor) -> Tensor:
        """Examples of an `ImageSet` as the model sees them."""
        return images if self.grey_levels is None else to_model(images)

    def _read_ahead(self, batches: Sequence[_BatchKey]) -> Tensor:
        """Return the first of some batches; threads read the others, and drop earlier requests."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._spec.threads, thread_name_prefix="examples")
        for batch in self._ahead.keys() - set(batches):
            self._ahead.pop(batch).cancel()
        for batch in batches:
            if batch not in self._ahead:
                self._ahead[batch] = self._pool.submit(self._read, *batch)
        return self._ahead.pop(batches[0]).result()

    def _read(self, seed: int, step: int, size: int, first: int, last: int) -> Tensor:
        chosen, flips = order(step, size, self.train.n, seed)
        chosen = chosen[first:last]
        flips = flips[first:last]
        if self._pinned:
            chosen = chosen.pin_memory()
            flips = flips.pin_memory()
        batch = self.train.batch(chosen, flips if self._spec.flip else None)
        return batch.pin_memory() if self._pinned and batch.device.type == "cpu" else batch

    def labelled_batch(
        self, seed: int, restart: int, step: int, size: int, rows: slice
    ) -> tuple[Tensor, Tensor]:
        """The examples that `batch` returns, and their labels, which are on the CPU."""
        x = self.batch(seed, restart, step, size, rows)
        chosen, _ = order(step, size, self.train.n, seed)
        return x, self._labels[chosen[rows]]

    def test_labels(self, seed: int, first: int, last: int) -> Tensor:
        """The labels of the test examples ``first <= i < last``."""
        return self._test_labels[first:last]

    def dequantised_test_data(self, seed: int, first: int, last: int) -> Tensor:
        """Test examples ``first <= i < last``; images are dequantised, each with its own noise.

        Raises:
            DataError: there are fewer.
        """
        images = self._test_examples(first, last)
        if self.grey_levels is None:
            return images
        noise = seeds.SampleNoise(seed, "dequantise", first=first, last=last).uniform(self.shape)
        return dequantise(images, noise)

    def test_data(self, seed: int, first: int, last: int) -> Tensor:
        """Test examples ``first <= i < last`` in the form of training examples.

        Raises:
            DataError: there are fewer.
        """
        return self._seen(self._test_examples(first, last))

    def _test_examples(self, first: int, last: int) -> Tensor:
        if last > self.test.n:
            raise DataError(
                f"{self.examples.where} has {self.test.n} test examples, fewer than the {last} "
                f"requested. Evaluate at most that many: eval.points={self.test.n}, "
                f"periodic.elbo_points={self.test.n}."
            )
        return self.test.batch(torch.arange(first, last))

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._ahead.clear()
