"""Keys of a recipe that trains sensibly on given data. `cldctl init` writes them, `cld_core.fit`
begins with them.

One dial, the size, sets width and depth of the network and the length of training: ``s`` learns in
some minutes on two cores, ``m`` in an hour or so, ``l`` is meant for a GPU. Loads no torch.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from .registry import SECTIONS
from .train import ObjectiveSpec

SIZES = ("s", "m", "l")
# Nested plain values, as in a recipe.
Keys = dict[str, dict[str, Any]]

# By the size: of vectors, and of curves and images, whose networks have three or four resolutions.
_VECTORS: dict[str, dict[str, Any]] = {
    "s": {"width": 128, "layers": 5, "steps": 8_000, "batch": 512, "lr": 2e-3},
    "m": {"width": 256, "layers": 6, "steps": 40_000, "batch": 512, "lr": 1e-3},
    "l": {"width": 512, "layers": 8, "steps": 200_000, "batch": 1024, "lr": 5e-4},
}
_GRIDS: dict[str, dict[str, Any]] = {
    "s": {"channels": 32, "levels": 3, "blocks": 1, "steps": 3_000, "batch": 64, "lr": 1e-3},
    "m": {"channels": 64, "levels": 3, "blocks": 2, "steps": 30_000, "batch": 128, "lr": 5e-4},
    "l": {"channels": 128, "levels": 4, "blocks": 4, "steps": 300_000, "batch": 128, "lr": 2e-4},
}
# How often each example is seen, at most: a network that sees few too often learns them by heart.
_MOST_PASSES = {1: 5000, 2: 1000, 3: 500}
# Numbers of the longer side, in multiples of the channels: more of them are folded, by so many into
# one at most.
_LONGEST, _MOST_FOLDED = {2: 3, 3: 0.75}, {2: 8, 3: 4}
# Folded ones of the shorter side at the lowest resolution.
_LEAST_SIDE = 4
_WIDEST = 1024
# Positions between which the middle of a U-Net attends: of 10,000, a CPU takes a day for what else
# takes minutes.
_MOST_POSITIONS = 1024


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
    """The sections `network`, `objective`, `optim`, `train`, `periodic`, `sampling`, `eval` and
    `cluster` of a recipe.

    Args:
        shape: of one example: (d), (C, L) or (C, H, W).
        examples: for training; None if there is no end of them.
        tests: examples for tests, which bound `eval.points`; None if there is no end of them.
        data_std: standard deviation of the numbers that the model sees; about 1 if they were scaled
            so.
        sde: the name of the diffusion.
        steps: of training; None: as many as go with data and size.
    """
    dials = (_VECTORS if len(shape) == 1 else _GRIDS)[size]
    batch = min(dials["batch"], examples or dials["batch"])
    if steps is None:
        most = (
            math.inf if examples is None else max(_MOST_PASSES[len(shape)] * examples // batch, 1)
        )
        steps = rounded(min(dials["steps"], most))
    objectives: tuple[str, ...] = getattr(
        SECTIONS["sde"].find(sde).spec, "objectives", (ObjectiveSpec.name,)
    )
    is_vector = len(shape) == 1
    samples, at_once, tolerance = (2000, 2000, 1e-4) if is_vector else (500, 100, 1e-3)
    points = {1: 1000, 2: 100, 3: 64}[len(shape)]
    keys: Keys = {
        "network": _network(shape, dials),
        "objective": {
            **({} if ObjectiveSpec.name in objectives else {"name": objectives[0]}),
            "precondition": "data",
            "data_std": data_std,
            # Small t are where vectors differ most from normal ones. What is large in curves and
            # pictures is decided at large t.
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
        "sampling": {
            "method": "exponential",
            **({"nfe": 30} if is_vector else {"nfe": 50, "grid": "quadratic"}),
        },
        "eval": {
            "samples": samples,
            "points": points if tests is None else max(1, min(points, tests)),
            "batch_size": at_once,
            "elbo": {"rtol": tolerance, "atol": tolerance},
        },
    }
    if is_vector and size == "s":
        # Threads of so small a network would wait for each other.
        keys["cluster"] = {"cpus_per_task": 1}
    if size == "l":
        keys["cluster"] = {"gpus_per_node": 1}
    return keys


def why_slow(shape: tuple[int, ...], keys: Keys) -> Iterator[str]:
    """Why a network that was suggested for examples of a shape takes long, and what to do about it;
    else nothing."""
    if len(shape) > 1:
        divisor = keys["network"]["patch"] * 2 ** (len(keys["network"]["multipliers"]) - 1)
        positions = math.prod(side // divisor for side in shape[1:])
        if positions > _MOST_POSITIONS:
            text = (
                f"examples of shape {shape} train slowly: the network attends to {positions:,} "
                f"positions at once"
            )
            yield f"{text}. Scale them down, or crop or pad them to sides that 16 divides"


def rounded(number: float) -> int:
    """A whole number of at least 1, in two digits."""
    scale: int = 10 ** max(math.floor(math.log10(max(number, 1.0))) - 1, 0)
    return max(1, math.ceil(number / scale)) * scale


def _network(shape: tuple[int, ...], dials: Mapping[str, Any]) -> dict[str, Any]:
    if len(shape) == 1:
        width = min(_WIDEST, max(dials["width"], 2 ** math.ceil(math.log2(2 * shape[0]))))
        return {"name": "mlp", "width": width, "layers": dials["layers"], "time_input": "fourier"}
    # Patches and resolutions divide all sides.
    sides, channels = shape[1:], dials["channels"]
    common, folds = math.gcd(*sides), range(1, _MOST_FOLDED[len(shape)] + 1)
    levels = {
        fold: _levels(common // fold, min(sides) // fold, dials["levels"])
        for fold in folds
        if common % fold == 0
    }
    enough = next(
        (fold for fold in levels if max(sides) / fold <= _LONGEST[len(shape)] * channels),
        max(levels),
    )
    # A network of one resolution sees too little of an example: rather a larger one of two.
    patch = max(
        levels.keys() & set(range(1, enough + 1)), key=lambda fold: (levels[fold] > 1, fold)
    )
    return {
        "name": "unet1d" if len(shape) == 2 else "ncsnpp",
        "channels": channels,
        "multipliers": [min(2**level, 2) for level in range(levels[patch])],
        "blocks": dials["blocks"],
        "patch": patch,
        # The published values are for long trainings: in a short one, the score would be rough in
        # t.
        "fourier_scale": 1.0,
        "dropout": 0.0,
    }


def _levels(common: int, shortest: int, most: int) -> int:
    """The largest number of resolutions."""
    return 1 + max(
        it
        for it in range(most)
        if common % 2**it == 0 and (it == 0 or shortest >> it >= _LEAST_SIDE)
    )
