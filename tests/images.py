"""Small prepared image data and recipes that train on them, for tests of what comes after preparation."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cld_core.data.build import Plan, Unit, build
from cld_core.recipe import Recipe, load

RECIPES = Path(__file__).parents[1] / "recipes"
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


def make_images(root: Path, *, size: int = 8, splits: Mapping[str, int] | None = None) -> Path:
    """A prepared folder of smooth random images; by default 20 for training and 40 for validation."""

    def images(count: int, seed: int) -> list[bytes]:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (count, 2, 2, 3))
        return [np.kron(image, np.ones((size // 2, size // 2, 1))).astype(np.uint8).tobytes() for image in coarse]

    counts = splits or {"train": 20, "validation": 40}
    units = {
        split: [Unit(name="all", fingerprint="1", read=lambda count=count, seed=seed: images(count, seed))]
        for seed, (split, count) in enumerate(counts.items())
    }
    build(Plan(name="folder", size=size, source="tests", units=units), root)
    return root


def tiny_recipe(data: Path, *overrides: str) -> Recipe:
    """The smoke recipe at 8x8 pixels."""
    return load(RECIPES / "cifar10_smoke.yaml", [*TINY, f"data.path={data}", *overrides])
