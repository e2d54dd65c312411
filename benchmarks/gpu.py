"""The image recipes on a GPU, as they run: `python -m benchmarks gpu`. Reports if there is none.

Training on the rows that each GPU of the recipe gets, in its precision, in each form and in the one that
`train.compile: auto` chooses: the time of a step and of the first one, memory, and the model FLOPs utilisation (MFU),
which is relative to the card's own measured rate of products in half precision. Then the time of 50,000 samples by each
sampler and in each precision.
"""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Report, Row, Settings, interleaved, seconds
from cld_core import nets, numerics, sde
from cld_core.config import Recipe
from cld_core.gpu_checks import forms, memory, sampling
from cld_core.gpu_checks.findings import Context
from cld_core.gpu_checks.setups import image_recipe
from cld_core.ranks import Ranks
from cld_core.train.forms import Choice
from cld_core.train.step import Trainer

RECIPES = ("cifar10", "celebahq256_paper", "celebahq256")
# In the precision of the recipe.
FORMS = {
    "eager": Choice(),
    "channels_last": Choice(channels_last=True),
    "compiled": Choice("compiled", channels_last=True),
    "CUDA graphs": Choice("graphs", channels_last=True),
}
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
SAMPLES = 50_000
# Steps before and within each measurement.
_WARM_UP, _STEPS = 5, 10


@dataclass(frozen=True)
class Training:
    """One measurement: ``steps`` in seconds each, ``first`` with what it compiles, memory in bytes, FLOP of a step."""

    rows: int
    first: float
    steps: list[float]
    memory: int
    flops: float


def topic(settings: Settings) -> Report:
    if not settings.is_gpu and not settings.quick:
        report = Report(topic="gpu", title="no GPU on this machine")
        report.notes.append("on a machine with a GPU: `python -m benchmarks gpu --json gpu.json` (docs/gpu.md)")
        return report
    context = Context(
        work=settings.work, device=settings.device, scale="small" if settings.quick else "full", clock=settings.clock
    )
    peak = half_rate(settings)
    report = Report(topic="gpu", title=torch.cuda.get_device_name() if settings.is_gpu else "small sizes on the CPU")
    report.notes.append(f"products in half precision: {peak / 1e12:.3g} TFLOP/s, which MFU is relative to")
    for name in RECIPES[:1] if settings.quick else RECIPES:
        for form, choice in FORMS.items():
            # Compiling takes minutes.
            if choice.compile == "eager" or not settings.quick:
                report.rows.append(_row(f"{name}, {form}", measured(settings, context, name, choice), peak))
        decision = forms.decided(context, forms.recipe_of(context, name))
        report.rows.append(_row(f"{name}, auto", measured(settings, context, name, decision.choice), peak, decision))
        report.rows += _samplers(context, name)
    return report


def half_rate(settings: Settings) -> float:
    """The most FLOP/s of products in float16 or bfloat16."""
    n = 256 if settings.quick else 8192
    a, b = torch.randn(2, n, n, device=settings.device)
    # CPUs compute float16 by other means.
    kinds = (torch.bfloat16, torch.float16) if settings.is_gpu else (torch.bfloat16,)
    factors = {str(kind): (a.to(kind), b.to(kind)) for kind in kinds}
    calls = {name: partial(torch.matmul, *pair) for name, pair in factors.items()}
    times = interleaved(calls, min(settings.rounds, 3), settings)
    return 2.0 * n**3 / min(min(taken) for taken in times.values())


def measured(settings: Settings, context: Context, name: str, choice: Choice) -> Training | None:
    """Training in one form, on fewer rows if they do not fit into memory; None if not even one does."""

    def training(rows: int) -> Training:
        return _training(settings, forms.recipe_of(context, name, f"train.batch_size={rows}"), choice)

    fitting = memory.halved(image_recipe(context, name).train.batch_size, training)
    return None if fitting is None else fitting[1]


def _training(settings: Settings, recipe: Recipe, choice: Choice) -> Training:
    numbers = itertools.count()
    if settings.is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with numerics.using(tf32=recipe.train.tf32, fixed_shapes=True):
        trainer = Trainer(recipe, Ranks(device=torch.device(settings.device)), choice=choice)
        try:
            first = seconds(lambda: trainer.step(next(numbers)), settings)
            for _ in range(_WARM_UP):
                trainer.step(next(numbers))
            count = 1 if settings.quick else _STEPS
            taken = [seconds(lambda: trainer.step(next(numbers)), settings, count) for _ in range(settings.rounds)]
            most = torch.cuda.max_memory_allocated() if settings.is_gpu else 0
        finally:
            trainer.close()
    return Training(recipe.train.batch_size, first, taken, most, flops(recipe))


def flops(recipe: Recipe) -> float:
    """FLOP of the products and convolutions of a step, forward and backward, in any form; computed without numbers."""
    rows, diffusion, network = recipe.train.batch_size, sde.build(recipe.sde), recipe.network
    shape = (network.image_channels, network.image_size, network.image_size)
    # torch does not count the fused attention of CPUs.
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net = nets.build(network, data_shape=shape, halves_in=diffusion.n, halves_out=diffusion.m)
        u = torch.empty(rows, diffusion.n * shape[0], *shape[1:])
        net(u, torch.empty(rows)).sum().backward()
    return float(counter.get_total_flops())


def _row(name: str, training: Training | None, peak: float, decision: forms.Decision | None = None) -> Row:
    chosen = "" if decision is None else f"{decision}; "
    if training is None:
        return Row(name=name, seconds=None, note=f"{chosen}does not fit into memory")
    second = statistics.median(training.steps)
    note = (
        f"{chosen}{training.rows} rows: {training.rows / second:.0f} images/s, first step {training.first:.1f} s, "
        f"{training.memory / 2**30:.1f} GiB, MFU {100 * training.flops / second / peak:.0f} %"
    )
    return Row(name=name, seconds=second, best=min(training.steps), note=note)


def _samplers(context: Context, name: str) -> Iterator[Row]:
    """Seconds of one evaluation of a batch, and hours for `SAMPLES` samples."""
    recipe = image_recipe(context, name)
    rows = 2 if context.small else recipe.eval.batch_size
    model = sampling.untrained(recipe, context.device)
    for method, precision in itertools.product(sampling.EVALUATIONS, PRECISIONS):
        label = f"{name}, {method}, {precision}"
        measure = partial(sampling.per_evaluation, context, model, rows, method, precision=precision)
        timed = memory.attempted(measure)
        if timed is None:
            yield Row(name=label, seconds=None, note=f"batches of {rows} do not fit into memory")
            continue
        each, _ = timed
        evaluations = sampling.EVALUATIONS[method]
        hours = each * evaluations * SAMPLES / rows / 3600
        note = f"evaluations of {rows} rows; {SAMPLES:,} samples of {evaluations} evaluations in {hours:.2f} h"
        yield Row(name=label, seconds=each, note=note)
