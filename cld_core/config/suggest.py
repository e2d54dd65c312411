"""Keys of a recipe that trains sensibly on given data. `cldctl init` writes them, `cld_core.fit` begins with them.

One dial, the size, sets width and depth of the network and the length of training: ``s`` learns in some minutes on two
cores, ``m`` in an hour or so, ``l`` is meant for a GPU. Loads no torch.
"""

import math
from collections.abc import Mapping
from typing import Any

from .registry import SECTIONS
from .train import ObjectiveSpec

SIZES = ("s", "m", "l")
# Nested plain values, as in a recipe.
Keys = dict[str, dict[str, Any]]

# By the size.
_VECTORS: dict[str, dict[str, Any]] = {
    "s": {"width": 128, "layers": 5, "steps": 8_000, "batch": 512, "lr": 2e-3},
    "m": {"width": 256, "layers": 6, "steps": 40_000, "batch": 512, "lr": 1e-3},
    "l": {"width": 512, "layers": 8, "steps": 200_000, "batch": 1024, "lr": 5e-4},
}
# `side`: pixels of the longer side at full resolution, more of them are folded; `levels`: resolutions.
_CURVES: dict[str, dict[str, Any]] = {
    "s": {"channels": 32, "levels": 3, "blocks": 1, "side": 96, "steps": 3_000, "batch": 64, "lr": 1e-3},
    "m": {"channels": 64, "levels": 3, "blocks": 2, "side": 192, "steps": 20_000, "batch": 128, "lr": 5e-4},
    "l": {"channels": 128, "levels": 4, "blocks": 4, "side": 384, "steps": 100_000, "batch": 256, "lr": 2e-4},
}
_PICTURES: dict[str, dict[str, Any]] = {
    "s": {"channels": 32, "levels": 3, "blocks": 1, "side": 24, "steps": 3_000, "batch": 64, "lr": 1e-3},
    "m": {"channels": 64, "levels": 3, "blocks": 2, "side": 48, "steps": 30_000, "batch": 128, "lr": 5e-4},
    "l": {"channels": 128, "levels": 4, "blocks": 4, "side": 96, "steps": 300_000, "batch": 128, "lr": 2e-4},
}
# How often each example is seen, at most: a network that sees few too often learns them by heart.
_MOST_PASSES = {1: 5000, 2: 1000, 3: 500}
# Folded pixels of the shorter side at the lowest resolution, and pixels that are folded into one along a side.
_LEAST_SIDE, _MOST_FOLDED = 4, {2: 8, 3: 4}
_WIDEST = 1024


def suggested(
    shape: tuple[int, ...],
    examples: int | None = None,
    size: str = "s",
    *,
    tests: int | None = None,
    data_std: float = 1.0,
    sde: str = "cld",
    steps: int | None = None,
) -> Keys:
    """The sections `network`, `objective`, `optim`, `train`, `periodic`, `sampling`, `eval` and `cluster` of a recipe.

    Args:
        shape: of one example: (d), (C, L) or (C, H, W).
        examples: for training; None if there is no end of them.
        tests: examples for tests, which bound `eval.points`; None if there is no end of them.
        data_std: standard deviation of the numbers that the model sees; about 1 if they were scaled so.
        sde: the name of the diffusion.
        steps: of training; None: as many as go with data and size.
    """
    dials = {1: _VECTORS, 2: _CURVES, 3: _PICTURES}[len(shape)][size]
    batch = min(dials["batch"], examples or dials["batch"])
    if steps is None:
        most = math.inf if examples is None else max(_MOST_PASSES[len(shape)] * examples // batch, 1)
        steps = rounded(min(dials["steps"], most))
    points = {1: 1000, 2: 100, 3: 64}[len(shape)]
    objectives: tuple[str, ...] = getattr(SECTIONS["sde"].find(sde).spec, "objectives", (ObjectiveSpec.name,))
    is_vector = len(shape) == 1
    tolerance = 1e-4 if is_vector else 1e-3
    keys: Keys = {
        "network": _network(shape, dials),
        "objective": {
            **({} if ObjectiveSpec.name in objectives else {"name": objectives[0]}),
            "precondition": "data",
            "data_std": data_std,
            # Small t are where vectors differ most from normal ones. What is large in curves and pictures is decided
            # at large t.
            **({"times": "log"} if is_vector else {}),
        },
        "optim": {"lr": dials["lr"], "warmup_steps": min(100, steps // 10), "decay": "cosine"},
        "train": {
            "steps": steps,
            "batch_size": batch,
            # An average over the last tenth at most.
            "ema": 0.9999 if steps >= 100_000 else 0.999 if steps >= 5_000 else 0.99,
            "checkpoint_every": rounded(steps / 4),
        },
        "periodic": {"samples_every": rounded(steps / 4)},
        "sampling": {"method": "exponential", **({"nfe": 30} if is_vector else {"nfe": 50, "grid": "quadratic"})},
        "eval": {
            "samples": 2000 if is_vector else 500,
            "points": points if tests is None else max(1, min(points, tests)),
            "batch_size": 2000 if is_vector else 100,
            "elbo": {"rtol": tolerance, "atol": tolerance},
        },
    }
    if is_vector and size == "s":
        # Threads of so small a network would wait for each other.
        keys["cluster"] = {"cpus_per_task": 1}
    if size == "l":
        keys["cluster"] = {"gpus_per_node": 1}
    return keys


def rounded(number: float) -> int:
    """A whole number of at least 1, in two digits."""
    scale: int = 10 ** max(math.floor(math.log10(max(number, 1.0))) - 1, 0)
    return max(1, math.ceil(number / scale)) * scale


def _network(shape: tuple[int, ...], dials: Mapping[str, Any]) -> dict[str, Any]:
    if len(shape) == 1:
        width = min(_WIDEST, max(dials["width"], 2 ** math.ceil(math.log2(2 * shape[0]))))
        return {"name": "mlp", "width": width, "layers": dials["layers"], "time_input": "fourier"}
    patch, levels = _folds(shape[1:], dials["side"], dials["levels"])
    common = {
        "channels": dials["channels"],
        "multipliers": [min(2**level, 2) for level in range(levels)],
        "blocks": dials["blocks"],
        "patch": patch,
    }
    if len(shape) == 2:
        return {"name": "unet1d", **common}
    # The published values are for long trainings: in a short one, the score would be rough in t.
    return {"name": "ncsnpp", **common, "fourier_scale": 1.0, "dropout": 0.0}


def _folds(sides: tuple[int, ...], side: int, levels: int) -> tuple[int, int]:
    """`network.patch` and the number of resolutions: both divide all sides, and as many levels as there can be.

    Sides that nothing divides have a patch of 1 and one resolution.
    """
    common, longest = math.gcd(*sides), max(sides)
    folds = [fold for fold in range(1, _MOST_FOLDED[1 + len(sides)] + 1) if common % fold == 0]
    enough = next((fold for fold in folds if longest / fold <= side), folds[-1])
    found = [(fold, _levels(sides, fold, levels)) for fold in folds if fold <= enough]
    # A network of one resolution sees too little of an example: rather a larger one of two.
    return next((it for it in reversed(found) if it[1] > 1), found[-1])


def _levels(sides: tuple[int, ...], fold: int, most: int) -> int:
    """The largest number of resolutions."""
    common, shortest = math.gcd(*sides) // fold, min(sides) // fold
    fits = (it for it in range(most, 1, -1) if common % 2 ** (it - 1) == 0 and shortest >> (it - 1) >= _LEAST_SIDE)
    return next(fits, 1)
