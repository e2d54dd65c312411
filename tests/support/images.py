"""Small prepared image data, and recipes that train on them."""

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

from cld_core.config import load, shipped
from cld_core.config.data import ImageDataSpec
from cld_core.data.images import StoredSource
from cld_core.data.prepare import Plan, SourcePart, build
from cld_core.run import RunFolder
from tests.support.paths import RECIPES
from tests.support.recipes import shipped_recipe

# A network of milliseconds, of the smoke recipe's kind.
TINY = (
    "data.size=8",
    "network.image_size=8",
    "network.channels=8",
    "network.multipliers=[1,2]",
    "network.attention=[4]",
    "train.batch_size=6",
    "cluster.tasks_per_node=1",
)
# The same of any recipe for images.
SMALL = (*TINY, "data.name=folder", "data.channels=3", "network.blocks=1")
# A file of a recipe on pictures of 16 x 16 pixels in the folder `set`, with the network of the
# published checkpoint.
SMALL_RECIPE = f"""
extends: {RECIPES}/cifar10.yaml
name: small
data: {{name: folder, size: 16, path: set}}
network: {{image_size: 16, channels: 16, multipliers: [1, 2], blocks: 1, attention: [8]}}
cluster: {{nodes: 1, gpus_per_node: 0, tasks_per_node: 1}}
"""


def store_images(root, images, *, name="folder", labels=None, classes=()):
    """A prepared data set of these images, uint8 of shape (n, C, H, W)."""
    parts = [
        SourcePart(
            split=split,
            name="all",
            fingerprint="1",
            read=lambda some=some: some,
            labels=labels[split] if labels else (),
        )
        for split, some in images.items()
    ]
    _, channels, size, _ = next(iter(images.values())).shape
    plan = Plan(
        name=name, size=size, channels=channels, source="tests", parts=parts, classes=tuple(classes)
    )
    build(plan, root)
    return root


def opened(path, split, **keys):
    """A split of the images in a folder, by default of 8 x 8 pixels."""
    spec = ImageDataSpec(path=str(path), **{"size": 8, **keys})
    return StoredSource(spec).opened(split, spec.cache)


def pixels_of(path, split, **keys):
    """All images of a split, uint8 of shape (n, C, H, W)."""
    images = opened(path, split, **keys)
    return images.batch(torch.arange(images.n)).numpy()


def make_images(root, *, size=8, splits=None, **about):
    """A prepared folder of smooth random images; default: 20 for training, 40 for validation."""

    def smooth(count, seed):
        coarse = (
            np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3)).transpose(0, 3, 1, 2)
        )
        return np.kron(coarse, np.ones((size // 2, size // 2))).astype(np.uint8)

    counts = splits or {"train": 20, "validation": 40}
    images = {split: smooth(count, seed) for seed, (split, count) in enumerate(counts.items())}
    return store_images(root, images, **about)


def tiny_recipe(data, *overrides):
    """The smoke recipe at 8x8 pixels."""
    return shipped_recipe("cifar10_smoke", *TINY, f"data.path={data}", *overrides)


def image_recipe(folder, name, *overrides, small=False, gpus=1):
    """The recipe ``name`` on images in ``folder``, with the rows of a batch that one of its ranks
    gets.

    Args:
        small: images of 8 pixels, and a network for a CPU.
    """
    file = shipped.find(name)
    published = load(file)
    network = published.network
    size = 8 if small else network.image_size
    rows = published.train.batch_size // published.cluster.world_size
    images = make_images(folder / f"images-{size}", size=size)
    own = [
        f"train.batch_size={rows}",
        "cluster.nodes=1",
        f"cluster.gpus_per_node={gpus}",
        f"data.path={images}",
    ]
    shape = ["data.name=folder", f"data.size={size}", "data.channels=3"]
    return load(file, [*shape, *(SMALL if small else ()), *own, *overrides])


def run_folder(folder, data, *overrides):
    """A run of 12 steps on those images, with checkpoints every 4."""
    small = (
        "train.steps=12",
        "train.checkpoint_every=4",
        "train.log_every=3",
        "periodic.samples_every=null",
    )
    return RunFolder.create(folder / "run", tiny_recipe(data, *small, *overrides), {"created": 1.0})


def clone(value):
    """A copy of a state of nested dictionaries of tensors."""
    return tree_map_only(torch.Tensor, torch.clone, value)


def labelled_images(root, splits):
    """As `make_images`, 8 x 8 pixels in three classes: the number of an image modulo 3."""
    labels = {split: [index % 3 for index in range(count)] for split, count in splits.items()}
    return make_images(root, splits=splits, labels=labels, classes=("even", "odd", "rest"))
