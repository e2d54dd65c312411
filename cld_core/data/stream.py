"""The batches of a training run, in order and ahead of time."""

import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from cld_core.data import order
from cld_core.data.images import ImageSet


class ImageStream(Iterator[Tensor]):
    """This rank's share of one global batch after another, from ``start_step`` on, without end.

    Yields uint8 of shape (b, C, H, W) on ``device``; `cld_core.data.images.to_model` makes model input of it there.
    What step s yields depends on (seed, s, batch_size, rank, world) alone, so a resumed run passes the number of
    finished steps as ``start_step`` and neither repeats nor skips an image.

    Images that are on ``device`` already are indexed there. Others are read ahead by threads, into pinned memory
    where ``device`` is a GPU, and copied without waiting. ``wait_s`` is how long the last batch was waited for.
    ``rows`` says the share of the global batch directly, instead of ``rank`` and ``world``.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        rows: slice | None = None,
        flip: bool = True,
        device: torch.device | str = "cpu",
        threads: int = 2,
        ahead: int = 4,
    ) -> None:
        assert min(threads, ahead) >= 1, f"nothing reads: {threads} threads, {ahead} batches ahead"
        self.step = start_step
        self.wait_s = 0.0
        self._images = images
        self._seed = seed
        self._batch_size = batch_size
        self._slice = order.rank_slice(batch_size, rank, world) if rows is None else rows
        self._flip = flip
        self._device = torch.device(device)
        self._pinned = self._device.type == "cuda"
        # A set in memory on a CPU gains nothing from threads that would take the cores of the model.
        self._direct = images.device.type == self._device.type and images.in_memory
        self._threads = threads
        self._ahead = ahead
        self._pool: ThreadPoolExecutor | None = None
        self._pid = -1
        self._waiting: deque[Future[Tensor]] = deque()

    def __next__(self) -> Tensor:
        started = time.monotonic()
        batch = self._read(self.step) if self._direct else self._read_ahead()
        self.wait_s = time.monotonic() - started
        self.step += 1
        return batch.to(self._device, non_blocking=self._pinned)

    def _read_ahead(self) -> Tensor:
        if self._pool is None or self._pid != os.getpid():
            self._waiting.clear()
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="images")
            self._pid = os.getpid()
        while len(self._waiting) < self._ahead:
            self._waiting.append(self._pool.submit(self._read, self.step + len(self._waiting)))
        return self._waiting.popleft().result()

    def _read(self, step: int) -> Tensor:
        n = self._images.n
        indices = order.indices(step, self._batch_size, n, self._seed)[self._slice]
        flips = order.mirrored(step, self._batch_size, n, self._seed)[self._slice] if self._flip else None
        if self._pinned:
            indices = indices.pin_memory()
            flips = None if flips is None else flips.pin_memory()
        batch = self._images.batch(indices, flips)
        return batch.pin_memory() if self._pinned and batch.device.type == "cpu" else batch

    def close(self) -> None:
        """Stop reading ahead. The stream may be used again, from the step where it was."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._waiting.clear()

    def __enter__(self) -> "ImageStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
