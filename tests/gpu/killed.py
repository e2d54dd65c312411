"""Trains a run as ``python -m cld_core.train RUN``, with deterministic kernels, and dies in a step
if asked to."""

import os
import signal
import sys
import time

import torch

from cld_core.run import RunFolder
from cld_core.train import __main__ as training
from cld_core.train.step import Trainer


def die_in(folder, at):
    """Let step ``at`` kill this process between its gradients and its update, once a checkpoint is
    there."""
    whole = Trainer.step

    def die(*_):
        while not folder.checkpoint_steps():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    def until_death(trainer, step):
        if step == at:
            trainer.optimiser.register_step_pre_hook(die)
        whole(trainer, step)

    Trainer.step = until_death


if __name__ == "__main__":
    path, *at = sys.argv[1:]
    torch.use_deterministic_algorithms(True, warn_only=True)
    if at:
        die_in(RunFolder(path), int(at[0]))
    sys.argv = ["train", path]
    sys.exit(training.main())
