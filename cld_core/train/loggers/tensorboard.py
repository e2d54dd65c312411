"""TensorBoard's file of a run, which may be lost: training goes on without it, and a new one is begun later."""

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from cld_core.files import Dropping

from . import About, End, Over, hyperparameters

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

# Seconds before a new file is tried after one has failed.
_AGAIN_S = 10.0


class Board:
    """What a run plots, with its hyper-parameters. Points that cannot be written are dropped.

    Args:
        over: see `Dropping`.
    """

    def __init__(self, about: About, over: Over) -> None:
        self._about = about
        # TensorBoard forgets what earlier attempts plotted from this step on. A point at step n is of n steps done, so
        # the one at the first step stays.
        self._purge_step: int | None = about.first_step + 1
        self._writer: SummaryWriter | None = None
        self._not_before = 0.0
        self._dropping = Dropping("TensorBoard's file", over)
        self._attempt(self._show_hyperparameters)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._attempt(partial(_plot, name=name, value=value, step=step))

    def text(self, name: str, markdown: str, step: int) -> None:
        self._attempt(lambda writer: writer.add_text(name, markdown, step))

    def picture(self, name: str, pixels: "Tensor", step: int) -> None:
        self._attempt(lambda writer: writer.add_image(name, pixels.numpy(), step, dataformats="HWC"))

    def close(self, end: End) -> None:
        self._attempt(lambda writer: writer.close())

    def _show_hyperparameters(self, writer: "SummaryWriter") -> None:
        """Fill the tab HPARAMS: in the run's own file, so that all attempts are one session of it.

        Which metrics there are is left to TensorBoard, which finds those of evaluations, too.
        """
        from torch.utils.tensorboard.summary import hparams

        _, start, _ = hparams(hyperparameters(self._about.recipe), {})
        # Without a step, so that no later attempt makes TensorBoard forget it.
        writer._get_file_writer().add_summary(start)

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

        writer = SummaryWriter(
            str(self._about.folder.tensorboard), purge_step=self._purge_step, max_queue=100, flush_secs=30
        )
        # What this attempt has plotted already stays.
        self._purge_step = None
        return writer


def _plot(writer: "SummaryWriter", name: str, value: float, step: int) -> None:
    writer.add_scalar(name, value, step)
