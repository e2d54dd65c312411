"""The image recipes on a GPU: steps and images per second, memory, MFU, and the time of 50,000 samples.

`python -m benchmarks gpu`; reports if there is no GPU. Batch sizes are halved until they fit.
"""

import itertools
import statistics
from dataclasses import replace

import torch

from benchmarks import models
from benchmarks.harness import Report, Row, Settings, seconds
from benchmarks.limits import flop_rates
from benchmarks.ncsnpp_step import step_flops
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.recipe import Recipe, load
from cld_core.train.step import Trainer

# Recipes and the batch sizes to start with: on one GPU, the batch of the recipe is too large for most cards.
RECIPES = {"cifar10": 128, "celebahq256_paper": 16, "celebahq256": 16}
FORMS = {
    "fp32": ("train.precision=fp32", "train.tf32=false"),
    "tf32": ("train.precision=fp32",),
    "bf16": ("train.precision=bf16",),
    "bf16, compiled": ("train.precision=bf16", "train.compile=true"),
}
SAMPLERS = {
    "exponential, 20 evaluations": {"method": "exponential", "nfe": 20},
    "exponential, 20 evaluations, compiled": {"method": "exponential", "nfe": 20, "compile": True},
    "EM, 500 evaluations": {"method": "em", "nfe": 500},
    "SSCS, 150 evaluations": {"method": "sscs", "nfe": 150, "grid": "quadratic"},
    "probability flow": {"method": "ode"},
}
SAMPLES = 50_000


def topic(settings: Settings) -> Report:
    if not settings.is_gpu:
        report = Report(topic="gpu", title="no GPU on this machine")
        report.notes.append("on a machine with a GPU: `make bench`, or `python -m benchmarks gpu --json gpu.json`")
        return report
    name = torch.cuda.get_device_name()
    report = Report(topic="gpu", title=name)
    rates = flop_rates(replace(settings, rounds=3), 8192)
    peaks = {"fp32": rates["product, float32"][1], "bf16": rates["product, bfloat16"][1]}
    report.notes.append(", ".join(f"{kind}: {rate / 1e12:.0f} TFLOP/s for products" for kind, rate in peaks.items()))
    report.notes.append("MFU: fraction of the rate of products in the same dtype, the best that this card reaches")
    for recipe, batch in RECIPES.items():
        for form, keys in FORMS.items():
            report.rows.append(_training(settings, recipe, batch, form, keys, peaks))
        report.rows += _sampling(settings, recipe, 2 * batch)
        if settings.quick:
            break
    return report


def on_one_gpu(settings: Settings, name: str, *keys: str) -> Recipe:
    """An image recipe on generated data, for one process."""
    recipe = load(models.RECIPES / f"{name}.yaml")
    size = recipe.network.image_size
    folder = models.image_folder(settings.work / name, size, {"train": 256, "validation": 1})
    one = ("cluster.nodes=1", "cluster.gpus_per_node=1", "data.name=folder", f"data.size={size}")
    return load(models.RECIPES / f"{name}.yaml", [*one, f"data.path={folder}", "train.channels_last=true", *keys])


def _training(
    settings: Settings, name: str, batch: int, form: str, keys: tuple[str, ...], peaks: dict[str, float]
) -> Row:
    label = f"{name}, {form}"
    while batch:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            trainer, taken = _steps(settings, on_one_gpu(settings, name, f"train.batch_size={batch}", *keys))
        except torch.OutOfMemoryError:
            batch //= 2
            continue
        second = statistics.median(taken)
        memory = torch.cuda.max_memory_allocated() / 2**30
        peak = peaks["bf16" if form.startswith("bf16") else "fp32"]
        share = step_flops(trainer, batch) / second / peak if "compiled" not in form else None
        trainer.close()
        note = f"batch {batch}: {1 / second:.2f} steps/s, {batch / second:.0f} images/s, {memory:.1f} GiB"
        note += "" if share is None else f", MFU {100 * share:.0f} %"
        return Row(name=label, seconds=second, best=min(taken), note=note)
    return Row(name=label, seconds=None, note="does not fit into memory")


def _steps(settings: Settings, recipe: Recipe) -> tuple[Trainer, list[float]]:
    """A trainer and the seconds of its steps, after some steps for warming up and compiling."""
    trainer, numbers = Trainer(recipe, Ranks(device=torch.device(settings.device))), itertools.count()
    for _ in range(5):
        trainer.step(next(numbers))
    count = 2 if settings.quick else 10
    return trainer, [seconds(lambda: trainer.step(next(numbers)), settings, count) for _ in range(settings.rounds)]


def _sampling(settings: Settings, name: str, batch: int) -> list[Row]:
    """Time of `SAMPLES` samples on one card, extrapolated from one batch."""
    torch.cuda.empty_cache()
    torch.set_float32_matmul_precision("high")
    model = Model(on_one_gpu(settings, name), settings.device)
    model.net.requires_grad_(False)
    rows = []
    for label, keys in SAMPLERS.items():
        if settings.quick and keys["method"] != "exponential":
            continue
        try:
            model.draw(batch, **keys)
            second = seconds(lambda keys=keys: model.draw(batch, **keys), settings)
        except torch.OutOfMemoryError:
            rows.append(Row(name=f"{name}, {label}", seconds=None, note=f"batches of {batch} do not fit into memory"))
            continue
        hours = second * SAMPLES / batch / 3600
        note = f"batches of {batch}, tf32; {SAMPLES:,} samples in {hours:.2f} h"
        rows.append(Row(name=f"{name}, {label}", seconds=second, note=note))
    return rows
