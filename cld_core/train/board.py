"""TensorBoard's file of a run, which may be lost: training goes on without it, and a new one is begun later."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cld_core.faults import Dropping

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

# Seconds before a new file is tried after one has failed.
_AGAIN_S = 10.0


class Board:
    """What a run plots. Points that cannot be written are dropped.

    Args:
        purge_step: TensorBoard forgets what earlier attempts plotted at this step and later.
        over: see `Dropping`.
    """

    def __init__(self, folder: Path, purge_step: int | None, over: Callable[[int, str], object]) -> None:
        self._folder, self._purge_step = folder, purge_step
        self._writer: SummaryWriter | None = None
        self._not_before = 0.0
        self._dropping = Dropping("TensorBoard's file", over)
        self._attempt(lambda writer: None)

    def scalar(self, name: str, value: float, step: int) -> None:
        self._attempt(lambda writer: writer.add_scalar(name, value, step))

    def picture(self, name: str, pixels: "Tensor", step: int) -> None:
        """Show a picture, uint8 (H, W, C)."""
        self._attempt(lambda writer: writer.add_image(name, pixels.numpy(), step, dataformats="HWC"))

    def close(self) -> None:
        self._attempt(lambda writer: writer.close())

    def _attempt(self, work: "Callable[[SummaryWriter], object]") -> None:
        now = time.monotonic()
        if self._writer is None and now < self._not_before:
            self._dropping.count += 1
            return
        try:
            self._writer = self._writer or self._opened()
            work(self._writer)
        except OSError as error:
            # A writer whose thread has failed stays so.
            broken, self._writer = self._writer, None
            with contextlib.suppress(Exception):
                if broken is not None:
                    broken.close()
            self._not_before = now + _AGAIN_S
            self._dropping.failed(error)
        else:
            self._dropping.succeeded()

    def _opened(self) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self._folder), purge_step=self._purge_step, max_queue=100, flush_secs=30)
        # What this attempt has plotted already stays.
        self._purge_step = None
        return writer
