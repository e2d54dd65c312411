"""TensorBoard's file of a run."""

from collections.abc import Mapping

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from . import About, End, hyperparameters


class TensorboardLogger:
    """What a run plots, with its hyper-parameters, in a file that begins with the first report."""

    def __init__(self, about: About) -> None:
        self._about = about
        self._writer: SummaryWriter | None = None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._file(step).add_scalar(name, value, step)

    def text(self, name: str, markdown: str, step: int) -> None:
        self._file(step).add_text(name, markdown, step)

    def picture(self, name: str, pixels: Tensor, step: int) -> None:
        self._file(step).add_image(name, pixels.numpy(), step, dataformats="HWC")

    def close(self, end: End) -> None:
        if self._writer is not None:
            self._writer.close()

    def _file(self, step: int) -> SummaryWriter:
        """The file; TensorBoard forgets what earlier ones have beyond the step that it begins with.

        A point at step n is of n steps done, so one that is there at the first step stays.
        """
        if self._writer is None:
            folder = str(self._about.folder.tensorboard)
            self._writer = SummaryWriter(folder, purge_step=step + 1, max_queue=100, flush_secs=30)
            # For the tab HPARAMS. In the run's own file, so that all attempts are one session of it, and without a
            # step, so that no later attempt makes TensorBoard forget it. Which metrics there are is left to
            # TensorBoard, which finds those of evaluations, too.
            _, start, _ = hparams(hyperparameters(self._about.recipe), {})
            self._writer._get_file_writer().add_summary(start)
        return self._writer
