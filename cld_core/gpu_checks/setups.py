"""The image recipes on generated images in their own format, for one process."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from cld_core.config import Recipe, load, shipped
from cld_core.config.network import NcsnppSpec
from cld_core.data.prepare import Part, Plan, build
from cld_core.data.store import Split

from .findings import Context

_COUNTS: dict[Split, int] = {"train": 64, "validation": 1}
_SMALL_PIXELS = 8
# A network with every kind of layer of the recipes, which a CPU computes in milliseconds.
_SMALL = (
    f"network.image_size={_SMALL_PIXELS}",
    "network.channels=16",
    "network.multipliers=[1,2]",
    "network.blocks=1",
    "network.attention=[4]",
)


def image_folder(folder: Path, size: int, counts: Mapping[Split, int] = _COUNTS, name: str = "folder") -> Path:
    """A prepared data set of random ``size`` x ``size`` images, as `cldctl data prepare` creates it.

    Args:
        counts: number of images of each split.
        name: the kind of data set that it is said to be.
    """

    images = {
        split: np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
        for seed, (split, count) in enumerate(counts.items())
    }
    parts = [
        Part(split=split, name="all", fingerprint=str(len(some)), read=partial(list, (some,)))
        for split, some in images.items()
    ]
    build(Plan(name=name, size=size, source="generated", parts=parts), folder)
    return folder


def image_recipe(context: Context, name: str, *changes: str) -> Recipe:
    """The recipe ``name`` on generated images, with the rows of a batch that one of its ranks gets.

    Args:
        changes: overrides such as ``train.precision=fp32``.
    """
    file = shipped.find(name)
    published = load(file)
    rows = published.train.batch_size // published.cluster.world_size
    kind = "folder" if context.small else published.data.name
    size = _SMALL_PIXELS if context.small else _pixels(published)
    data = image_folder(context.work / f"{kind}-{size}", size, name=kind)
    own = [f"data.path={data}", f"train.batch_size={rows}", "cluster.nodes=1"]
    own += [f"cluster.gpus_per_node={int(context.on_gpu)}"]
    if context.small:
        own += ["data.name=folder", f"data.size={size}", *_SMALL]
    return load(file, [*own, *changes])


def _pixels(recipe: Recipe) -> int:
    assert isinstance(recipe.network, NcsnppSpec), f"{recipe.name} is not a recipe for images"
    return recipe.network.image_size
