"""Stored examples as training and evaluation use them: sets by index, batches of a step, and test
data.

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
from cld_core.errors import DataError

from . import store, toy
from .arrays import MEMORY_BYTES, Arrays
from .form import GREY_LEVELS, Form, Split
from .store import LmdbReader, Prepared

# Batches that are read ahead.
_AHEAD = 4
# Numbers that are read at once, of a set that is loaded.
_BLOCK = 1 << 24
# The share of a GPU's free memory that a set may take.
_DEVICE_SHARE = 0.1
_log = logging.getLogger(__name__)


def to_model(images: Tensor) -> Tensor:
    """uint8 images of any shape as the float32 in [-1, 1] that the model works with: x / 127.5 -
    1."""
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


def to_grey(x: Tensor, form: Form, *, floor: bool = False) -> Tensor:
    """Data of any shape as uint8, as `to_pixels`: real numbers are black at the smallest of the
    training data."""
    if form.grey_levels is None and form.bounds is not None:
        low, high = form.bounds
        x = (x.double() - low) / (0.5 * (high - low or 1.0)) - 1.0
    return to_pixels(x, floor=floor)


class ImageSet:
    """Images, or other examples, of the same shape, by index.

    Attributes:
        n: number of images.
        shape: (C, ...) of each.
        in_memory: a batch needs no reading.
        device: where batches are made.
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
            rows: (n,), those of the array that are meant; None: all.
            made_of: makes a tensor of what was read.
        """
        self._images, self._rows, self._made_of = images, rows, made_of
        self.n: int = images.shape[0] if rows is None else len(rows)
        self.shape, self.in_memory = tuple(images.shape[1:]), isinstance(images, Tensor)
        self.device = images.device if isinstance(images, Tensor) else torch.device("cpu")

    def batch(self, indices: Tensor, flips: Tensor | None = None) -> Tensor:
        """Images by index; may be called by any number of threads.

        Args:
            indices: integers of shape (B,), each in [0, n).
            flips: which of them are mirrored left to right, bool of shape (B,); None: none.

        Returns:
            uint8, or what an array on disk is made into, of shape (B, C, ...) on ``device``, the
            caller's own.
        """
        if isinstance(self._images, Tensor):
            chosen = self._images.index_select(0, indices.to(self.device, non_blocking=True))
        else:
            places = indices.numpy() if self._rows is None else self._rows[indices.numpy()]
            chosen = self._made_of(self._images[places])
        return (
            chosen if flips is None else _mirror(chosen, flips.to(self.device, non_blocking=True))
        )


def _mirror(images: Tensor, flips: Tensor) -> Tensor:
    # Selects from both forms: on CPUs five times faster than torch.where, which broadcasts byte by
    # byte.
    n = len(images)
    both = torch.cat([images, images.flip(-1)])
    return both.index_select(0, torch.arange(n, device=images.device) + n * flips)


def _fits(n_bytes: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return device.type == "cpu"
    free, _ = torch.cuda.mem_get_info(device)
    return n_bytes <= _DEVICE_SHARE * free


def dequantise(images: Tensor, noise: Tensor) -> Tensor:
    """uint8 images with uniform noise in [0, 1), for densities: (k + noise)/128 - 1, float32 in
    [-1, 1).

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
    """The permutation of an epoch, int64 of shape (n,), and which positions in it are mirrored,
    bool of shape (n,)."""
    order = torch.randperm(n, generator=seeds.generator(seed, "order", epoch))
    mirrored = torch.rand(n, generator=seeds.generator(seed, "mirror", epoch)) < 0.5
    return order, mirrored


def order(step: int, batch_size: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """The images of the global batch of a step, and which of them are mirrored left to right.

    A batch that crosses the end of an epoch continues with the next one.

    Returns:
        int64 of shape (batch_size,), each in [0, n), and bool of shape (batch_size,).
    """
    assert min(step + 1, batch_size, n) >= 1, (
        f"no batch: step {step}, batch {batch_size}, images {n}"
    )
    first, last = step * batch_size, (step + 1) * batch_size
    parts = [
        [of_all[max(first - epoch * n, 0) : last - epoch * n] for of_all in _epoch(n, seed, epoch)]
        for epoch in range(first // n, (last - 1) // n + 1)
    ]
    chosen, flips = map(torch.cat, zip(*parts, strict=True))
    return chosen, flips


class StoredSource:
    """Examples by number, in files or in memory. Images are uint8, and real numbers are seen
    scaled.

    Order and mirroring are keyed by the seed and the step, never by ``restart``. So a resumed epoch
    shows every example once, even if each attempt gets fresh noise. Examples that are on the
    source's device already are indexed there. Others are read ahead by threads, into pinned memory
    if the device is a GPU, and copied asynchronously.

    Args:
        given: examples in memory; None: those of the recipe's files.
    """

    density: toy.Toy | None = None

    def __init__(
        self,
        spec: StoredDataSpec,
        device: torch.device | str = "cpu",
        given: Prepared | Arrays | None = None,
    ) -> None:
        self.wait_s = 0.0
        self._spec, self._given = spec, given
        self._form: Form | None = None
        self._device = torch.device(device)
        self._pinned = self._device.type == "cuda"
        self._pool: ThreadPoolExecutor | None = None
        # Batches that are read ahead, by their arguments.
        self._ahead: dict[tuple[int, int, int, int, int], Future[Tensor]] = {}

    @cached_property
    def examples(self) -> Prepared | Arrays:
        """Where they are, and what is known of them; raises as `store.of` does."""
        return self._given or store.of(self._spec)

    @property
    def form(self) -> Form:
        """Theirs, with a scaling that is fitted to the training examples unless a form was set, as
        of a checkpoint.

        Raises:
            DataError: neither the recipe nor a form that was set says it, and the data are missing
                or cannot be used.
        """
        if self._form is None:
            form = self._outline
            if form.grey_levels is None and isinstance(self.examples, Arrays):
                form = self.examples.form(self._spec, _log.warning)
            self._form = form
        return self._form

    @form.setter
    def form(self, form: Form) -> None:
        self._form = form
        for name in ("train", "test"):
            self.__dict__.pop(name, None)

    @property
    def _outline(self) -> Form:
        """Their form or, for which no number is looked at, what it is without a scaling; raises as
        `form` does."""
        if self._form is not None:
            return self._form
        if (shape := self._spec.shape) is not None:
            return Form(shape=shape, grey_levels=GREY_LEVELS)
        try:
            return Form(shape=self.examples.shape, grey_levels=self.examples.grey_levels)
        except DataError:
            # Earlier versions had no grey images, and their recipes say the size alone.
            if (size := getattr(self._spec, "size", None)) is None:
                raise
            return Form(shape=(store.CHANNELS, size, size), grey_levels=GREY_LEVELS)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example, (C, ...); raises as `form` does."""
        return self._outline.shape

    @property
    def grey_levels(self) -> int | None:
        """Of an image; None for real numbers; raises as `form` does."""
        return self._outline.grey_levels

    @cached_property
    def classes(self) -> Classes | None:
        """Those of the examples; None if the recipe wants no labels; raises DataError if they
        cannot be read."""
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
            DataError: they are missing or not those of the recipe; names the fix.
        """
        return self.opened("train", self._spec.cache)

    @cached_property
    def test(self) -> ImageSet:
        """The test examples; raises as `train` does."""
        # Evaluation reads one in minutes: not worth the memory.
        return self.opened("validation", "disk")

    def opened(self, split: Split, cache: str) -> ImageSet:
        """The examples of a split, as `data.cache` says: "auto" loads sets up to `MEMORY_BYTES`.

        A set that would fill too much of a GPU stays on the host.

        Raises:
            DataError: they are missing, damaged, or not those of the form that was set.
        """
        found, form = self.examples, self.form
        if (found.shape, found.grey_levels) != (form.shape, form.grey_levels):
            text = f"has examples of shape {found.shape}, and the run began with {form.shape}"
            raise DataError(f"{found.where} {text}. Put back the data, or start a new run.")
        are_images = form.grey_levels is not None
        images, rows = found.stored(split)
        on_disk = ImageSet(images, rows, torch.from_numpy if are_images else self._scaled)
        n_bytes = on_disk.n * math.prod(form.shape) * (1 if are_images else 4)
        if cache == "disk" or (cache == "auto" and n_bytes > MEMORY_BYTES):
            return on_disk
        examples = torch.empty(
            on_disk.n, *form.shape, dtype=torch.uint8 if are_images else torch.float32
        )
        for rows_of_block in torch.arange(on_disk.n).split(max(1, _BLOCK // math.prod(form.shape))):
            examples[rows_of_block] = on_disk.batch(rows_of_block)
        found.verify(split, examples.numpy())
        return ImageSet(examples.to(self._device) if _fits(n_bytes, self._device) else examples)

    def _scaled(self, x: np.ndarray) -> Tensor:
        """Real numbers as the model sees them, float32: scaled in float64, unless float32 holds
        them exactly."""
        exact = x.dtype.itemsize < 4 or x.dtype == np.float32
        return self.form.to_model(
            torch.from_numpy(x.astype(np.float32 if exact else np.float64))
        ).float()

    def batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> Tensor:
        """As in `cld_core.data.source.Source`; float32 on the source's device. Steps in order are
        fast."""
        started = time.monotonic()
        wanted = [(seed, it, size, rows.start, rows.stop) for it in range(step, step + _AHEAD)]
        # For a set in memory on a CPU, threads would only take cores from the model.
        direct = self.train.in_memory and self.train.device.type == self._device.type
        images = self._read(*wanted[0]) if direct else self._read_ahead(wanted)
        self.wait_s = time.monotonic() - started
        return self._seen(images.to(self._device, non_blocking=self._pinned))

    def _seen(self, images: Tensor) -> Tensor:
        """What the model sees of examples as `ImageSet` has them."""
        return images if self.grey_levels is None else to_model(images)

    def _read_ahead(self, wanted: Sequence[tuple[int, int, int, int, int]]) -> Tensor:
        """The first of the wanted batches; the others are read meanwhile, and those that nobody
        wants are dropped."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._spec.threads, thread_name_prefix="examples")
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

    def labelled_batch(
        self, seed: int, restart: int, step: int, size: int, rows: slice
    ) -> tuple[Tensor, Tensor]:
        """As `batch`, with the labels, which are on the CPU."""
        x = self.batch(seed, restart, step, size, rows)
        return x, self._labels[order(step, size, self.train.n, seed)[0][rows]]

    def test_labels(self, seed: int, first: int, last: int) -> Tensor:
        """The labels of the test examples ``first <= i < last``."""
        return self._test_labels[first:last]

    def dequantised_test_data(self, seed: int, first: int, last: int) -> Tensor:
        """Test examples ``first <= i < last``; of images, dequantised, with noise of its own for
        each.

        Raises:
            DataError: there are fewer.
        """
        images = self._test_examples(first, last)
        if self.grey_levels is None:
            return images
        noise = seeds.SampleNoise(seed, "dequantise", first=first, last=last).uniform(self.shape)
        return dequantise(images, noise)

    def test_data(self, seed: int, first: int, last: int) -> Tensor:
        """Test examples ``first <= i < last`` as training sees its own; raises as
        `dequantised_test_data` does."""
        return self._seen(self._test_examples(first, last))

    def _test_examples(self, first: int, last: int) -> Tensor:
        if last > self.test.n:
            raise DataError(
                f"{self.examples.where} has {self.test.n} test examples, fewer than the {last} "
                f"asked for. "
                f"Evaluate at most that many: eval.points={self.test.n}, "
                f"periodic.elbo_points={self.test.n}."
            )
        return self.test.batch(torch.arange(first, last))

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._ahead.clear()
