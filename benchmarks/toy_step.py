"""One training step of the published toy setting: batch 512, new data at each step.

python -m benchmarks toy_step
"""

import itertools
from dataclasses import replace

import numpy as np
import torch

from benchmarks import baseline, models
from benchmarks.harness import BASELINE, Report, Settings, against_published, interleaved, rows_of
from benchmarks.limits import product_rate
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer

PUBLISHED_S, LEAST = 2.67e-3, 1.52  # harness.PUBLISHED_ON


def flops(batch: int) -> float:
    """FLOP of the products of a step: forward pass and both gradients, except for the input of the
    first layer."""
    into, out = models.TOY_LAYERS[0]
    return models.toy_flops(batch, passes=3) - batch * 2.0 * into * out


def topic(settings: Settings) -> Report:
    recipe = models.toy_recipe()
    if settings.quick:
        recipe = replace(recipe, train=replace(recipe.train, batch_size=32))
    size = recipe.train.batch_size
    trainer = Trainer(recipe, Ranks(device=torch.device(settings.device)))
    numbers = itertools.count()
    net = baseline.PlainMLP()
    net.load_state_dict(trainer.net.state_dict())
    plain = baseline.PlainTraining(baseline.PlainCLD(net), net)
    rng = np.random.default_rng(0)
    calls = {
        BASELINE: lambda: plain.step(baseline.swiss_rolls(size, rng)),
        "cldctl": lambda: trainer.step(next(numbers)),
    }
    times = interleaved(
        calls, 5 * settings.rounds, settings, burst_s=0.01 if settings.quick else 0.15
    )
    rows = rows_of(
        times,
        notes={name: f"{1 / min(seconds):.0f} steps/s at best" for name, seconds in times.items()},
    )
    report = Report(topic="toy_step", title=f"MLP, batch {size}, swiss rolls", rows=rows)
    rows[1] = against_published(rows[1], PUBLISHED_S, LEAST, settings)
    limit = flops(size) / product_rate(settings)
    report.notes.append(
        f"limit: the {flops(size) / 1e6:.0f} MFLOP of products per step take {1e3 * limit:.2f} ms "
        f"at the machine's best"
    )
    return report
