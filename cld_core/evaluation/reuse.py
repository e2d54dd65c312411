"""Rows that another evaluation of the same run has computed: they are taken over, so that none is computed twice."""

from collections.abc import Iterator
from pathlib import Path

from cld_core.errors import NotFoundError
from cld_core.run.atomic import read_json

from . import shard_files
from .request import EvalRequest
from .shard_files import Shard
from .work import WORK, all_rows


def take_over(
    path: Path, request: EvalRequest, shard: Shard, kind: str, first: int, last: int, checkpoint: str, told: str
) -> None:
    """Give a shard, of rows ``first <= i < last``, what sealed shards of other evaluations have of its work.

    Where a kind keeps all its rows, any part of them will do; else the very same range.

    Args:
        path: the evaluation's folder; its neighbours are searched.
        checkpoint: the checksum of the checkpoint that rows must have been made with.
        told: begins the lines that say what was taken.
    """
    if shard.is_sealed(kind):
        return
    keeps_rows = WORK[kind].condense is all_rows
    for begin, end, other, number in sorted(_sealed(path, request, kind, checkpoint)):
        at, stop = first + shard.done(kind), min(end, last)
        wanted = begin <= at < stop if keeps_rows else (begin, end) == (first, last)
        arrays = shard_files.load(other / "shards", number, kind) if wanted else None
        if arrays is None:
            continue
        print(f"{told}: {kind} {stop - first}/{last - first}, taken from {other.name}", flush=True)
        if not keeps_rows:
            shard.keep(kind, arrays)
            return
        shard.append(kind, {name: values[at - begin : stop - begin] for name, values in arrays.items()})


def _sealed(path: Path, request: EvalRequest, kind: str, checkpoint: str) -> Iterator[tuple[int, int, Path, int]]:
    """Range, folder and number of the shards of other evaluations that have the same rows."""
    for other in path.parent.iterdir():
        try:
            its = None if other == path else EvalRequest.load(other)
        except (NotFoundError, KeyError):
            continue  # A sweep's folder, or made by another version.
        if its is None or kind not in its.work or its.rows_of(kind) != request.rows_of(kind):
            continue
        for number in range(its.shards):
            state = read_json(shard_files.state_file(other / "shards", number)) or {}
            part = state.get("work", {}).get(kind, {})
            if (state.get("request"), state.get("checkpoint")) == (its.id, checkpoint) and "bytes" in part:
                yield part["first"], part["last"], other, number
