"""One training step of NCSN++ in every form that a recipe can select.

python -m benchmarks ncsnpp_step
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import baseline, models
from benchmarks.harness import (
    BASELINE,
    PUBLISHED_ON,
    Report,
    Settings,
    against_published,
    interleaved,
    rows_of,
)
from benchmarks.limits import flop_rates
from benchmarks.plain_nets import plain_ncsnpp
from cld_core.config import Recipe
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer
from tests.support.images import make_images

PUBLISHED_S = 1.325  # harness.PUBLISHED_ON
FORMS = {
    "fp32": (),
    "fp32, channels_last": ("train.channels_last=true",),
    "fp32, compiled": ("train.compile=true",),
    "bf16": ("train.precision=bf16",),
    "bf16, channels_last": ("train.precision=bf16", "train.channels_last=true"),
    "bf16, compiled": ("train.precision=bf16", "train.compile=true"),
}
LEAST = {"fp32": 2.05, "fp32, channels_last": 2.16, "bf16": 3.32}


def trainer_of(recipe: Recipe, device: str) -> tuple[Trainer, Callable[[], Any]]:
    """A trainer and a function that takes its next step."""
    trainer, numbers = Trainer(recipe, Ranks(device=torch.device(device))), itertools.count()
    return trainer, lambda: trainer.step(next(numbers))


def topic(settings: Settings) -> Report:
    size = 8 if settings.quick else 32
    count = 8 if settings.quick else 64
    folder = make_images(
        settings.work / "ncsnpp", size=size, splits={"train": count, "validation": 1}
    )
    where = f"data.path={folder}"
    forms = {"fp32": FORMS["fp32"]} if settings.quick else FORMS
    recipes = {
        name: models.ncsnpp_recipe(settings.quick, where, *keys) for name, keys in forms.items()
    }
    calls: dict[str, Callable[[], Any]] = {}
    trainer, _ = trainer_of(recipes["fp32"], settings.device)
    batch = recipes["fp32"].train.batch_size
    net = plain_ncsnpp(trainer.net).train()
    plain = baseline.PlainTraining(
        baseline.PlainCLD(net, mixed_score=True, numerical_eps=1e-9), net, lr=2e-4
    )
    x = trainer.source.batch(0, 0, 0, batch, slice(0, batch))
    # The baseline's optimiser includes the frozen frequencies, as in a straightforward
    # implementation.
    calls[BASELINE] = lambda: plain.step(x)
    for name, recipe in recipes.items():
        _, calls[name] = trainer_of(recipe, settings.device)
    times = interleaved(calls, settings.rounds, settings, burst_s=0.0)
    flops = step_flops(trainer, batch)
    notes = {name: f"{flops / min(seconds) / 1e9:.0f} GFLOP/s" for name, seconds in times.items()}
    rows = rows_of(times, notes=notes)
    for i, row in enumerate(rows):
        if row.name in LEAST:
            rows[i] = against_published(row, PUBLISHED_S, LEAST[row.name], settings)
    parameters = sum(p.numel() for p in trainer.net.parameters())
    report = Report(
        topic="ncsnpp_step", title=f"{parameters / 1e6:.1f} M parameters, batch {batch}", rows=rows
    )
    report.notes.append(f"published code {PUBLISHED_ON}: {PUBLISHED_S} s")
    rates = flop_rates(replace(settings, rounds=3), 256 if settings.quick else 2048)
    for kind in ("float32", "bfloat16"):
        rate = rates[f"3x3 convolution, {kind}"][1]
        report.notes.append(
            f"limit: the {flops / 1e12:.2f} TFLOP of a step take {flops / rate:.2f} s "
            f"at the rate of a {kind} convolution, {rate / 1e9:.0f} GFLOP/s"
        )
    return report


def step_flops(trainer: Trainer, batch: int) -> float:
    """Floating-point operations of products and convolutions in one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        trainer._backward(0)
    trainer.optimiser.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())
