"""How long training stands still for a checkpoint, and whether the checkpoint is of one moment although it goes on."""

import statistics
import tempfile
from pathlib import Path

import torch

from cld_core import numerics
from cld_core.checkpoint.load import load
from cld_core.checkpoint.write import CheckpointWriter
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.train.step import Trainer

from . import states
from .findings import Context, Finding, judged
from .setups import image_recipe
from .timing import seconds

_ROUNDS = 3
# Of the time of a plain `torch.save`; copying to host memory should take a tenth of it or less.
_MOST = 0.5
# A save that is faster than this says nothing about the disk.
_LEAST_S = 0.2


def check(context: Context) -> Finding:
    """Save between two steps, in the background and plainly."""
    recipe = image_recipe(context, "cifar10", "train.precision=fp32", "train.compile=false")
    plainly: list[float] = []
    without: list[float] = []
    saving: list[float] = []
    with tempfile.TemporaryDirectory(dir=context.work) as name, numerics.using(tf32=recipe.train.tf32):
        folder = RunFolder.create(Path(name) / "run", recipe, {"created": 0.0})
        training = _Training(Trainer(recipe, Ranks(device=torch.device(context.device))), folder)
        # The first round creates moments and pinned memory.
        for _ in range(1 + _ROUNDS):
            training.writer.wait()
            plainly.append(seconds(context, lambda: save_plainly(training.trainer, Path(name) / "plain.pt")))
            without.append(seconds(context, training.step))
            expected = states.taken(training.trainer)
            saving.append(seconds(context, training.save_and_step))
        training.step()
        training.writer.wait()
        found = states.parts(load(folder, folder.checkpoint_steps()[-1]))
        training.trainer.close()
    whole = statistics.median(plainly[1:])
    stall = max(0.0, statistics.median(saving[1:]) - statistics.median(without[1:]))
    text = f"training stands still for {1e3 * stall:.0f} ms, for {1e3 * whole:.0f} ms with a plain torch.save"
    if different := states.changed(found, expected):
        text = f"the checkpoint's {' and '.join(different)} are of another moment; {text}"
        return judged(False, text, "Checkpoints cannot be trusted on this machine: report it with torch's version.")
    slow = whole > _LEAST_S and stall > _MOST * whole
    return judged(not slow, text, "Raise train.checkpoint_every; see how much memory a job may pin (ulimit -l).")


class _Training:
    """Steps as in the train loop: what a checkpoint is copied from stays as it is until the copy is taken."""

    def __init__(self, trainer: Trainer, folder: RunFolder) -> None:
        self.trainer, self.writer = trainer, CheckpointWriter(folder, keep=1)
        self._done = 0

    def step(self) -> None:
        self.trainer.step(self._done, before_update=self.writer.settled)
        self._done += 1

    def save_and_step(self) -> None:
        self.writer.save(self._done, self.trainer.state_dict(), held_still=True)
        self.step()


def save_plainly(trainer: Trainer, path: Path) -> None:
    """What a checkpoint would cost if training waited for it."""
    torch.save(trainer.state_dict(), path)
