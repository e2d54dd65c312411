"""Samples: the same on any card, and how fast."""

import math
from typing import Any

import torch

from cld_core.config import Recipe
from cld_core.model import Model
from cld_core.samplers import Samples

from .findings import Context, Finding, judged
from .setups import image_recipe
from .timing import seconds

# Evaluations that a sample is worth: of the published flow, and what docs/samplers.md recommends of the others.
EVALUATIONS = {"ode": 312, "em": 500, "sscs": 150, "exponential": 20}
_FEW = 6
_COMPARED = 2
# Of what float32 keeps of one evaluation (2^-13, see `parity`), a few in a row may lose some more.
_TOLERANCE = 2.0**-10
# What lets a sampler end after few evaluations.
_FEWER: dict[str, dict[str, Any]] = {"ode": {"rtol": 1e-1, "atol": 1e-1}}


def check(context: Context, method: str) -> Finding:
    """Samples per second of the CIFAR-10 network, untrained, in the batches of its evaluation; all must be finite."""
    recipe = image_recipe(context, "cifar10")
    rows = 2 if context.small else recipe.eval.batch_size
    each, samples = per_evaluation(context, untrained(recipe, context.device), rows, method)
    bad = not bool(torch.isfinite(samples.x).all())
    rate = rows / (each * EVALUATIONS[method]) if each > 0 else math.inf
    found = f"{rate:.3g} samples/s at {EVALUATIONS[method]} evaluations, {1e3 * each:.1f} ms per evaluation of {rows}"
    if bad:
        return judged(False, f"samples that are not finite; {found}", "Do not sample on this card: check parity first.")
    return judged(True, found)


def untrained(recipe: Recipe, device: str) -> Model:
    """A model with the same random weights on any device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(recipe, device)
    model.net.requires_grad_(False)
    return model


def per_evaluation(context: Context, model: Model, rows: int, method: str, **settings: Any) -> tuple[float, Samples]:
    """Seconds that a sampler takes for each network evaluation of ``rows`` samples, and what it drew.

    Args:
        settings: further keys of the recipe's `sampling` section.
    """
    few: dict[str, Any] = {"method": method, **_FEWER.get(method, {"nfe": _FEW}), **settings}
    drawn: list[Samples] = []

    def draw() -> None:
        drawn.append(model.draw(rows, **few))

    # The first loads kernels, and compiles if it is asked to.
    draw()
    return seconds(context, draw) / drawn[-1].nfe, drawn[-1]


def same_as_cpu(context: Context) -> Finding:
    """Whether sample i of a seed is the same on this card and on the CPU, except for rounding."""
    shallow = () if context.small else ("network.blocks=1",)
    recipe = image_recipe(context, "cifar10", "network.init_scale=1", *shallow)
    found = []
    for device in ("cpu", context.device):
        found.append(untrained(recipe, device).sample(_COMPARED, method="exponential", nfe=_FEW).double().cpu())
    expected, here = found
    error = float((here - expected).norm() / expected.norm())
    text = f"{_COMPARED} samples differ from the CPU's by {error:.1e} (at most {_TOLERANCE:.1e}; other noise: 1)"
    return judged(error <= _TOLERANCE, text, "Results depend on the card: report it with torch's version.")
