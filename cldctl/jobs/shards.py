"""What a launcher pickles for a task that computes shards of works.

Jobs of other versions know these names and fields.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.stop import StopFlag
from cldctl.clusters.base import InJob

from .task import run_task


@dataclass(frozen=True)
class Piece:
    """Shards of the work in a folder."""

    folder: str
    shards: tuple[int, ...]


@dataclass(frozen=True)
class ShardsWork:
    """Compute shards of works.

    Attributes:
        code: the digest of the code that was there when it was submitted; None to take any.
    """

    pieces: tuple[Piece, ...]
    gpu: bool
    code: str | None = None

    def __call__(self, job: InJob, stop: StopFlag) -> None:
        pieces = {Path(piece.folder): piece.shards for piece in self.pieces}
        run_task(pieces, job, stop, gpu=self.gpu, digest=self.code)


def divided(missing: Sequence[tuple[str, Sequence[int]]], tasks: int) -> list[tuple[Piece, ...]]:
    """The missing shards of works, by folder, for at most ``tasks`` tasks: one shard each if
    possible."""
    units = [(folder, shard) for folder, shards in missing for shard in shards]
    count = min(len(units), tasks)
    shares = []
    for task in range(count):
        share = defaultdict[str, list[int]](list)
        for folder, shard in units[task::count]:
            share[folder].append(shard)
        shares.append(tuple(Piece(folder, tuple(shards)) for folder, shards in share.items()))
    return shares
