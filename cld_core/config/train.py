"""The `train` section: the length of training, its precision, and its checkpoints."""

from dataclasses import dataclass
from typing import Literal

from .ema import LONGEST
from .keys import is_due, key


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    steps: int = key(800_000, "total number of optimiser steps", ge=1, le=1_000_000_000_000)
    batch_size: int = key(512, "examples in a step, over all ranks", ge=1, le=10_000_000)
    micro_batch: int | None = key(
        None, "examples that a rank computes at once; null: its whole share", ge=1, le=1_000_000
    )
    seed: int = key(0, "key of every random draw", ge=0)
    on_resume: Literal["reseed", "exact"] = key("reseed", "after a restart, fresh noise or the same noise")
    precision: Literal["fp32", "bf16", "fp16"] = key("fp32", "type that the network computes in")
    emulated: bool = key(False, "train on this machine in a precision that its processor emulates, which is slow")
    tf32: bool = key(True, "let GPUs round the factors of float32 products to 10 bits")
    compile: bool = key(False, "torch.compile the network")
    channels_last: bool = key(False, "store images with channels last, which is faster on GPUs")
    bucket_mb: int = key(25, "MiB of gradients that ranks exchange at once", ge=1, le=100_000)
    ema: float = key(0.999, "decay of the moving average of the weights", ge=0, lt=1)
    ema_lengths: tuple[float, ...] = key(
        (),
        "relative lengths of power-function averages to track, such as 0.05 and 0.1, for ema.length",
        gt=0,
        lt=LONGEST,
    )
    ema_every: int | None = key(
        None, "steps between two stored snapshots of those averages; null: checkpoint_every", ge=1
    )
    ema_precision: Literal["fp32", "fp16"] = key("fp32", "type of the stored snapshots")
    log_every: int = key(100, "steps between two lines of progress", ge=1)
    checkpoint_every: int = key(10_000, "steps between two checkpoints", ge=1)
    keep: int = key(3, "number of newest checkpoints that are kept", ge=1)
    milestone_every: int | None = key(None, "steps between two checkpoints that are never deleted; null: none", ge=1)
    milestone_from: int = key(0, "first step at which milestones are kept", ge=0)
    max_rollbacks: int = key(3, "rollbacks to the same checkpoint after a non-finite loss", ge=0)
    max_retries: int = key(3, "crashes in a row, without a new checkpoint, before a run is given up", ge=0)
    health_check: bool = key(True, "check each machine before training, and begin elsewhere if it is unfit")
    max_crashes_a_day: int = key(20, "crashes in 24 hours, with or without progress, before a run is given up", ge=0)
    hang_timeout_s: float = key(600.0, "seconds without a step after which a rank exits", gt=0, le=1_000_000_000)

    def wants_snapshot(self, step: int) -> bool:
        """Whether the power-function averages of a step are stored."""
        every = self.checkpoint_every if self.ema_every is None else self.ema_every
        return bool(self.ema_lengths) and is_due(step, every, every)

    def is_milestone(self, step: int) -> bool:
        """Whether the checkpoint of a step is never deleted."""
        return is_due(step, self.milestone_every, self.milestone_from)
