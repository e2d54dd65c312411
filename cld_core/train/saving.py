"""What is saved during training: checkpoints, and snapshots of power-function averages if the recipe keeps any."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from cld_core.checkpoint.write import CheckpointWriter, SnapshotWriter


class Saving:
    """The writers of a run, on rank 0; each has at most one write in flight (`CheckpointWriter`)."""

    def __init__(self, checkpoints: CheckpointWriter, snapshots: SnapshotWriter | None = None) -> None:
        self.checkpoints, self.snapshots = checkpoints, snapshots
        self._writers = [checkpoints, *([snapshots] if snapshots is not None else [])]

    @property
    def failed(self) -> bool:
        """Whether a write failed; `wait` raises the error."""
        return any(writer.failed for writer in self._writers)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Begin to write a checkpoint of a state that does not change before `settled`; raises SaveError as `wait`."""
        self.checkpoints.save(step, state, held_still=True)

    def save_averages(self, step: int, averages: dict[str, Any]) -> None:
        """Begin to write a snapshot of averages that do not change before `settled`; raises SaveError as `wait`."""
        if self.snapshots is not None:
            self.snapshots.save(step, averages, held_still=True)

    def settled(self) -> None:
        """Wait until the state may change."""
        for writer in self._writers:
            writer.settled()

    def wait(self, within_s: float = 0.0) -> None:
        """Wait until nothing is in flight, as `CheckpointWriter.wait`; the checkpoint first.

        Raises:
            SaveError: a write failed.
        """
        deadline = time.monotonic() + within_s
        self._each(lambda writer: writer.wait(max(0.0, deadline - time.monotonic())))

    def abandon(self) -> None:
        """Wait until nothing is in flight, as `CheckpointWriter.abandon`; raises as it does."""
        self._each(lambda writer: writer.abandon())

    def _each(self, wait: Callable[[CheckpointWriter], None]) -> None:
        """Wait for all writers, also if the first fails: its error is raised when no thread is left."""
        with contextlib.ExitStack() as stack:
            for writer in reversed(self._writers):
                stack.callback(wait, writer)
