"""Writing snapshots of averages, as checkpoints are written: in the background, and whole or not at all."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from cld_core.checkpoint.write import CheckpointWriter, write_file
from cld_core.run import RunFolder

_HALF_MAX = torch.finfo(torch.float16).max


class SnapshotWriter(CheckpointWriter):
    """Writes snapshots of the averages of a run: separate files that are kept when checkpoints are removed.

    Args:
        half: store float16 where the values fit.
    """

    what: ClassVar[str] = "snapshot"

    def __init__(
        self, folder: RunFolder, *, half: bool = False, check_owner: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(folder, keep=1, check_owner=check_owner)
        self._half = half

    def _store(self, step: int, snapshot: dict[str, Any]) -> None:
        self._folder.averages.mkdir(exist_ok=True)
        content = _halved(snapshot) if self._half else snapshot
        write_file(self._folder.snapshot_file(step), step, content, self.what, self._check_owner)

    def _prune(self) -> None:
        """Snapshots stay."""


def _halved(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.half() if value.is_floating_point() and bool((value.abs() <= _HALF_MAX).all()) else value
    return {name: _halved(inner) for name, inner in value.items()} if isinstance(value, dict) else value
