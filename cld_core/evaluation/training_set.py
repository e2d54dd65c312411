"""Computing the statistics of a training set, in shards that go on where they were interrupted."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cld_core.data.images import ImageSet, open_images
from cld_core.errors import DataError
from cld_core.ranks import Ranks
from cld_core.recipe.image_spec import ImageDataSpec

from . import extractors, shard_files, statistics
from .moments import Moments
from .shard_files import Arrays, Shard
from .stats_request import WORK, StatsRequest


def compute(
    folder: Path, ranks: Ranks, should_stop: Callable[[], bool] = lambda: False, only: int | None = None
) -> bool:
    """Compute what is missing: of the shards this rank takes every ``world_size``-th, or ``only`` one.

    The rank that finds all shards complete writes the file and removes the shards. Returns whether this rank did
    all of its share.

    Raises:
        UsageError: the weights are gone or have changed.
        DataError: the images are gone, or others.
    """
    request = StatsRequest.load(folder)
    made_of = {"request": request.id}
    mine = range(ranks.rank, request.shards, ranks.world_size) if only is None else (only,)
    images: ImageSet | None = None
    for number in mine:
        if shard_files.is_complete(folder / "shards", number, made_of):
            continue
        if images is None:
            spec = ImageDataSpec(**request.data)
            images = open_images(spec.path, "train", name=spec.name, size=spec.pixels, cache="disk")
        shard = Shard(folder / "shards", number, {WORK: request.bounds(number)}, made_of)
        rows = functools.partial(_rows, request, images, ranks.device)
        told = f"shard {number} of {request.shards}"
        keep = functools.partial(_condense, request)
        if not shard.fill(WORK, request.batch_size, rows, keep, should_stop, told):
            return False
    if all(shard_files.is_complete(folder / "shards", number, made_of) for number in range(request.shards)):
        _write(request, folder)
    return True


def _rows(request: StatsRequest, images: ImageSet, device: torch.device, first: int, last: int) -> Arrays:
    pixels = images.batch(torch.arange(first, last))
    return extractors.load(request.extractor, request.files, device)(pixels)


def _condense(request: StatsRequest, rows: Arrays) -> Arrays:
    moments = Moments.of(rows["features"]).arrays()
    return {**moments, **rows} if request.features else moments


def _write(request: StatsRequest, folder: Path) -> None:
    """The file from all shards. Two ranks may do it at once, and write the same."""
    parts: list[Moments] = []
    features: list[np.ndarray] = []
    for number in range(request.shards):
        part = shard_files.load(folder / "shards", number, WORK)
        if part is None:
            if request.is_done:
                return
            text = f"shard {number} of the statistics is damaged"
            raise DataError(f"{folder}: {text}. Type the same `cldctl data stats` again to compute it anew.")
        parts.append(Moments.from_arrays(part))
        features += [part["features"]] if request.features else []
    about = {
        "identity": request.identity,
        **request.extractor,
        "images": request.images,
        "data": request.fingerprint,
        "quantisation": "none: the images are uint8",
    }
    rows = np.concatenate(features) if request.features else None
    statistics.write(Path(request.output), Moments.merged(parts), rows, about)
    shutil.rmtree(folder / "shards", ignore_errors=True)
