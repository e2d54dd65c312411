"""Computing an evaluation piece by piece. A shard saves after every batch, and goes on where it was interrupted."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from cld_core.model import Model
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json, replacing, write_json
from cld_core.train.distributed import Ranks

from . import elbo, merge
from .request import EvalRequest


def compute(
    folder: RunFolder,
    name: str,
    ranks: Ranks,
    should_stop: Callable[[], bool] = lambda: False,
    only: int | None = None,
) -> bool:
    """Compute what is missing of the evaluation ``name``: of its shards this rank takes
    every ``world_size``-th, or ``only`` one.

    The rank that finds all shards complete merges them. Returns whether this rank did all of its share.

    Raises:
        NotFoundError: the evaluation or its checkpoint is not there.
        CheckpointError: the checkpoint is damaged.
    """
    path = folder.evals / name
    request = EvalRequest.load(path)
    model: Model | None = None
    mine = range(ranks.rank, request.shards, ranks.world_size) if only is None else (only,)
    for shard in mine:
        checksum = _checksum(folder, request)
        if is_complete(path, request, shard, checksum):
            continue
        if model is None:
            model = Model.from_run(folder.path, request.checkpoint_step, str(ranks.device))
        if not _compute_shard(path, request, shard, checksum, model, should_stop):
            return False
    if all(is_complete(path, request, shard) for shard in range(request.shards)) and not merge.is_current(path):
        merge.merge(folder, name, model or Model.from_run(folder.path, request.checkpoint_step, str(ranks.device)))
    return True


def is_complete(path: Path, request: EvalRequest, shard: int, checksum: str | None = None) -> bool:
    """Whether all of a shard is there; with ``checksum``, and was made with this very checkpoint."""
    state = read_json(state_file(path, shard)) or {}
    first, last = request.bounds(shard)
    done = state.get("done") == last - first and checksum in (None, state.get("checkpoint"))
    return done and len(_read(path, shard, str(state.get("checkpoint")))["elbo"]) == last - first


def state_file(path: Path, shard: int) -> Path:
    return path / "shards" / f"{shard:05d}.json"


def arrays_file(path: Path, shard: int) -> Path:
    return path / "shards" / f"{shard:05d}.npz"


def _compute_shard(
    path: Path, request: EvalRequest, shard: int, checksum: str, model: Model, should_stop: Callable[[], bool]
) -> bool:
    first, last = request.bounds(shard)
    arrays = _read(path, shard, checksum)
    done = len(arrays["elbo"])
    while done < last - first:
        if should_stop():
            return False
        size = min(request.batch_size, last - first - done)
        fresh = elbo.compute(model, request, first + done, first + done + size)
        arrays = {field: np.concatenate([arrays[field], fresh[field]]) for field in elbo.FIELDS}
        done += size
        _write(path, shard, arrays, {"first": first, "last": last, "done": done, "checkpoint": checksum})
        print(f"shard {shard} of {request.shards}: {done}/{last - first}", flush=True)
    return True


def _read(path: Path, shard: int, checksum: str) -> dict[str, np.ndarray]:
    """What an interrupted shard has; empty where it has nothing of this checkpoint."""
    state = read_json(state_file(path, shard)) or {}
    if state.get("checkpoint") == checksum and arrays_file(path, shard).is_file():
        # What cannot be read is computed again.
        with contextlib.suppress(OSError, ValueError, KeyError, BadZipFile), np.load(arrays_file(path, shard)) as file:
            return {field: file[field][: state["done"]] for field in elbo.FIELDS}
    return {field: np.empty(0) for field in elbo.FIELDS}


def _write(path: Path, shard: int, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
    with replacing(arrays_file(path, shard)) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    # Second, so that it never promises more than there is.
    write_json(state_file(path, shard), state)


def _checksum(folder: RunFolder, request: EvalRequest) -> str:
    sidecar = read_json(folder.checkpoint_file(request.checkpoint_step).with_suffix(".json")) or {}
    return str(sidecar.get("sha256"))
