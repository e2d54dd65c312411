"""Computing an evaluation piece by piece. A shard saves after every batch, and goes on where it was interrupted."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import torch

from cld_core.errors import NotFoundError
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.recipe.sampling_spec import SamplingSpec
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json

from . import merge, reuse, shard_files
from .request import EvalRequest
from .shard_files import Shard
from .work import WORK


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
        UsageError: weights or statistics are gone or have changed.
    """
    path = folder.evals / name
    request = EvalRequest.load(path)
    model: Model | None = None
    mine = range(ranks.rank, request.shards, ranks.world_size) if only is None else (only,)
    for shard in mine:
        checksum = checkpoint_checksum(folder, request)
        if is_complete(path, request, shard, checksum):
            continue
        if model is None:
            model = load_model(folder, request, ranks.device)
            for kind in request.work:
                WORK[kind].prepare(model, request)
        if not _compute_shard(path, request, shard, checksum, model, should_stop):
            return False
    if all(is_complete(path, request, shard) for shard in range(request.shards)) and not merge.is_current(path):
        merge.merge(folder, name, model or load_model(folder, request, ranks.device))
    return True


def load_model(folder: RunFolder, request: EvalRequest, device: torch.device) -> Model:
    """The model of a request's checkpoint, which samples as the request says."""
    model = Model.from_run(folder.path, request.checkpoint_step, str(device))
    model.recipe = dataclasses.replace(model.recipe, sampling=SamplingSpec(**request.sampling))
    return model


def is_complete(path: Path, request: EvalRequest, shard: int, checksum: str | None = None) -> bool:
    """Whether all of a shard is there; with ``checksum``, and was made with this very checkpoint."""
    made_of = {"request": request.id} | ({} if checksum is None else {"checkpoint": checksum})
    return shard_files.is_complete(path / "shards", shard, made_of)


def _compute_shard(
    path: Path, request: EvalRequest, number: int, checksum: str, model: Model, should_stop: Callable[[], bool]
) -> bool:
    every = {kind: request.bounds(number, kind) for kind in request.work}
    bounds = {kind: (first, last) for kind, (first, last) in every.items() if first < last}
    shard = Shard(path / "shards", number, bounds, {"request": request.id, "checkpoint": checksum})
    told = f"shard {number} of {request.shards}"
    for kind, (first, last) in bounds.items():
        work = WORK[kind]
        reuse.take_over(path, request, shard, kind, first, last, checksum, told)
        rows = functools.partial(work.compute, model, request)
        keep = functools.partial(work.condense, request)
        if not shard.fill(kind, request.batch_size, rows, keep, should_stop, told):
            return False
    return True


def checkpoint_checksum(folder: RunFolder, request: EvalRequest) -> str:
    """What stands for the checkpoint that an evaluation is to be made with.

    Raises:
        NotFoundError: it is gone.
    """
    sidecar = folder.checkpoint_file(request.checkpoint_step).with_suffix(".json")
    if not sidecar.exists():
        there = ", ".join(map(str, folder.checkpoint_steps())) or "none"
        text = f"no checkpoint of step {request.checkpoint_step} any more; there are: {there}"
        raise NotFoundError(f"{folder.path}: {text}. What was computed is kept; take another step.")
    return str((read_json(sidecar) or {}).get("sha256"))
