"""Recipe keys that suit given data, for `cldctl init` and `cld_core.fit`.

One dial, the size, sets width and depth of the network and the length of training: ``s`` learns in
some minutes on two cores, ``m`` in an hour or so, ``l`` is meant for a GPU. Loads no torch.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from .keys import Shape
from .registry import SECTIONS
from .train import ObjectiveSpec

SIZES = ("s", "m", "l")
# Nested plain values, as in a recipe.
Keys = dict[str, dict[str, Any]]

# The dials of each size, for vectors; and for curves and images, whose networks have three or four
# resolutions.
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
# By the number of axes, the most passes over the examples: with more, a network memorises them.
_MOST_PASSES = {1: 5000, 2: 1000, 3: 500}
# By the number of axes, the test points of an evaluation.
_POINTS = {1: 1000, 2: 100, 3: 64}
# Numbers that are few enough for the network to see waves of them. With six or ten, waves harm.
_FEW = 3
# The longest side that is not folded, in multiples of the channels, and the largest patch.
_LONGEST = {2: 3, 3: 0.75}
_MOST_FOLDED = {2: 8, 3: 4}
# Folded pixels of the shorter side at the lowest resolution.
_LEAST_SIDE = 4
_WIDEST = 1024
# Positions between which the middle of a U-Net attends: with 10,000 of them, minutes of training
# become a day on a CPU.
_MOST_POSITIONS = 1024


def suggested(
    shape: Shape,
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
        shape: the shape of one example: (d), (C, L) or (C, H, W).
        examples: the number of training examples; None if it is unlimited.
        tests: the number of test examples, which bounds `eval.points`; None if it is unlimited.
        data_std: standard deviation of the numbers that the model sees; about 1 if they were scaled
            to it.
        sde: the name of the diffusion.
        steps: the number of training steps; None: chosen by data and size.
    """
    is_vector = len(shape) == 1
    dials = (_VECTORS if is_vector else _GRIDS)[size]
    batch = min(dials["batch"], examples or dials["batch"])
    if steps is None:
        most = dials["steps"]
        if examples is not None:
            most = min(most, _MOST_PASSES[len(shape)] * examples // batch)
        steps = rounded(most)
    every = rounded(steps / 4)
    points = _POINTS[len(shape)]
    if tests is not None:
        points = max(1, min(points, tests))
    keys: Keys = {"network": _network(shape, dials), "objective": _objective(sde, data_std)}
    keys["optim"] = {"lr": dials["lr"], "warmup_steps": min(100, steps // 10), "decay": "cosine"}
    train = {"steps": steps, "batch_size": batch, "ema": _ema(steps), "checkpoint_every": every}
    keys["train"] = train
    keys["periodic"] = {"samples_every": every}
    if is_vector:
        keys["sampling"] = {"method": "exponential", "nfe": 30}
        keys["eval"] = {"samples": 2000, "points": points, "batch_size": 2000}
        keys["eval"]["elbo"] = {"rtol": 1e-4, "atol": 1e-4}
    else:
        keys["sampling"] = {"method": "exponential", "nfe": 50, "grid": "quadratic"}
        keys["eval"] = {"samples": 500, "points": points, "batch_size": 100}
        keys["eval"]["elbo"] = {"rtol": 1e-3, "atol": 1e-3}
    if is_vector and size == "s":
        # With a network of this size, several threads would only wait for each other.
        keys["cluster"] = {"cpus_per_task": 1}
    if size == "l":
        keys["cluster"] = {"gpus_per_node": 1}
    return keys


def _objective(sde: str, data_std: float) -> dict[str, Any]:
    # Measured to be best: docs/howto/better-training.md.
    keys = {
        "precondition": "data",
        "weighting": "edm",
        "times": "lognormal",
        "log_share": 0.1,
        "data_std": data_std,
    }
    objectives: tuple[str, ...] = SECTIONS["sde"].find(sde).spec.objectives
    return keys if ObjectiveSpec.name in objectives else {"name": objectives[0], **keys}


def _ema(steps: int) -> float:
    """The decay of an average over at most the last tenth of training."""
    if steps >= 100_000:
        return 0.9999
    return 0.999 if steps >= 5_000 else 0.99


def why_slow(shape: Shape, keys: Keys) -> Iterator[str]:
    """Yield why a suggested network is slow for examples of a shape, with the fix."""
    if len(shape) > 1:
        divisor = keys["network"]["patch"] * 2 ** (len(keys["network"]["multipliers"]) - 1)
        positions = math.prod(side // divisor for side in shape[1:])
        if positions > _MOST_POSITIONS:
            yield (
                f"examples of shape {shape} train slowly: the network attends to {positions:,} "
                "positions at once. Scale them down, or crop or pad them to sides that 16 divides"
            )


def rounded(number: float) -> int:
    """``number`` rounded up to two digits, at least 1."""
    scale: int = 10 ** max(math.floor(math.log10(max(number, 1.0))) - 1, 0)
    return max(1, math.ceil(number / scale)) * scale


def _network(shape: Shape, dials: Mapping[str, Any]) -> dict[str, Any]:
    if len(shape) == 1:
        width = min(_WIDEST, max(dials["width"], 2 ** math.ceil(math.log2(2 * shape[0]))))
        keys = {"name": "mlp", "width": width, "layers": dials["layers"], "time_input": "fourier"}
        # Without waves of x, few numbers are learned as if they were normal.
        few = {"input_features": 64, "input_scale": 0.5} if shape[0] <= _FEW else {}
        return {**keys, **few}
    sides = shape[1:]
    channels = dials["channels"]
    # Patches and resolutions divide all sides.
    common = math.gcd(*sides)
    levels = {}
    for patch in range(1, _MOST_FOLDED[len(shape)] + 1):
        if common % patch == 0:
            levels[patch] = _levels(common // patch, min(sides) // patch, dials["levels"])
    longest = _LONGEST[len(shape)] * channels
    largest = next((patch for patch in levels if max(sides) / patch <= longest), max(levels))
    # A network with one resolution sees too little of an example, so a smaller patch that allows
    # two resolutions is better.
    patches = [patch for patch in levels if patch <= largest]
    patch = max(patches, key=lambda patch: (levels[patch] > 1, patch))
    return {
        "name": "unet1d" if len(shape) == 2 else "ncsnpp",
        "channels": channels,
        "multipliers": [1, 2, 2, 2][: levels[patch]],
        "blocks": dials["blocks"],
        "patch": patch,
        # With the published value, which is for long trainings, the score after a short training is
        # rough in t.
        "fourier_scale": 1.0,
        "dropout": 0.0,
    }


def _levels(common: int, shortest: int, most: int) -> int:
    """The largest number of resolutions, at most ``most``, that halve all sides exactly.

    Args:
        common: a divisor of all sides.
        shortest: the shortest side, which stays at least `_LEAST_SIDE` at the lowest resolution.
    """
    levels = 1
    while levels < most and common % 2**levels == 0 and shortest >> levels >= _LEAST_SIDE:
        levels += 1
    return levels
