"""One training step of the published toy setting: batch 512, fresh rolls each step. `python -m benchmarks toy_step`."""

import itertools
from dataclasses import replace

import numpy as np
import torch

from benchmarks import baseline, models
from benchmarks.harness import BASELINE, Report, Settings, against_published, interleaved, rows_of
from cld_core.train.distributed import Ranks
from cld_core.train.step import Trainer

# Multiply-adds of a sample's forward pass, times 2 FLOP, times 3 for both gradients but the first layer's input.
LAYERS = ((5, 128), (128, 128), (128, 128), (128, 128), (128, 2))
PUBLISHED = 196.0  # steps/s on 2 cores


def flops(batch: int) -> float:
    each = [2.0 * a * b for a, b in LAYERS]
    return batch * (3 * sum(each) - each[0])


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
    times = interleaved(calls, 5 * settings.rounds, settings, burst_s=0.01 if settings.quick else 0.15)
    rows = rows_of(times, notes={name: f"{1 / min(seconds):.0f} steps/s at best" for name, seconds in times.items()})
    report = Report(topic="toy_step", title=f"MLP, batch {size}, swiss rolls", rows=rows)
    rows[1] = against_published(rows[1], 1 / PUBLISHED, 3.0)
    best = 1 / min(times["cldctl"])
    report.notes.append(
        f"products of a step: {flops(size) / 1e6:.0f} MFLOP, {flops(size) * best / 1e9:.0f} GFLOP/s at best"
    )
    return report
