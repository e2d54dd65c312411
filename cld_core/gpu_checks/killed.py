"""Trains a run like `python -m cld_core.train RUN`, with deterministic kernels, and dies in a step if asked to."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cld_core.run import RunFolder
from cld_core.train import __main__ as training
from cld_core.train.step import Trainer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cld_core.gpu_checks.killed", description=__doc__)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--at", type=int, help="the step in whose middle the process kills itself")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True, warn_only=True)
    if arguments.at is not None:
        _die_in(RunFolder(arguments.run_folder), arguments.at)
    sys.argv = ["train", str(arguments.run_folder)]
    return training.main()


def _die_in(folder: RunFolder, at: int) -> None:
    """Let step ``at`` kill this process between its gradients and its update, once a checkpoint is there."""
    whole = Trainer.step

    def die() -> None:
        while not folder.checkpoint_steps():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    def until_death(trainer: Trainer, step: int, before_update: Callable[[], None] = lambda: None) -> None:
        whole(trainer, step, die if step == at else before_update)

    # A process of its own, which dies of it: nothing else sees the other method.
    Trainer.step = until_death  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    sys.exit(main())
