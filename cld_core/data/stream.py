"""The batches of a training run, in order, and read ahead of time if they come from disk."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from . import order
from .images import ImageSet

# Batches that are read ahead.
_AHEAD = 4


class ImageStream(Iterator[Tensor]):
    """This rank's rows of one global batch after another, from ``start_step`` on, without end.

    Yields uint8 of shape (b, C, H, W) on ``device``; `cld_core.data.images.to_model` turns it into model input there.
    What step s yields depends on (seed, s, batch_size, rows) alone. So a resumed run, which passes the number of
    finished steps as ``start_step``, neither repeats nor skips an image.

    Images that are on ``device`` already are indexed there. Others are read ahead by threads, into pinned memory if
    ``device`` is a GPU, and copied asynchronously.

    Args:
        rows: this rank's share of the global batch.
        threads: threads that read from disk.

    Attributes:
        step: the next step.
        wait_s: seconds spent waiting for the last batch.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        seed: int,
        batch_size: int,
        rows: slice,
        start_step: int = 0,
        flip: bool = True,
        device: torch.device | str = "cpu",
        threads: int = 2,
    ) -> None:
        self.step = start_step
        self.wait_s = 0.0
        self._images = images
        self._seed = seed
        self._batch_size = batch_size
        self._rows = rows
        self._flip = flip
        self._device = torch.device(device)
        self._pinned = self._device.type == "cuda"
        # For a set in memory on a CPU, threads would only take cores from the model.
        self._direct = images.device.type == self._device.type and images.in_memory
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[Tensor]] = deque()

    def __next__(self) -> Tensor:
        started = time.monotonic()
        batch = self._read(self.step) if self._direct else self._read_ahead()
        self.wait_s = time.monotonic() - started
        self.step += 1
        return batch.to(self._device, non_blocking=self._pinned)

    def _read_ahead(self) -> Tensor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="images")
        while len(self._waiting) < _AHEAD:
            self._waiting.append(self._pool.submit(self._read, self.step + len(self._waiting)))
        return self._waiting.popleft().result()

    def _read(self, step: int) -> Tensor:
        n = self._images.n
        indices = order.indices(step, self._batch_size, n, self._seed)[self._rows]
        flips = order.mirrored(step, self._batch_size, n, self._seed)[self._rows] if self._flip else None
        if self._pinned:
            indices = indices.pin_memory()
            flips = None if flips is None else flips.pin_memory()
        batch = self._images.batch(indices, flips)
        return batch.pin_memory() if self._pinned and batch.device.type == "cpu" else batch

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._waiting.clear()
