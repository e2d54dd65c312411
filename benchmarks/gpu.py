"""The image recipes on a GPU, as they run: `python -m benchmarks gpu`. Reports if there is none.

Training on the rows that each GPU of the recipe gets, in its precision, in each form: the time of a
step and of the first one, memory, and the model FLOPs utilisation (MFU), which is relative to the
card's own measured rate of products in half precision. Then the time of 50,000 samples by each
sampler and in each precision.
"""

import gc
import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Report, Row, Settings, interleaved, seconds
from cld_core import nets, sde
from cld_core.config import Recipe
from cld_core.model import Model
from cld_core.nets import execution
from cld_core.ranks import Ranks
from cld_core.samplers import Samples
from cld_core.train.step import Trainer
from tests.support.images import image_recipe

Result = TypeVar("Result")

RECIPES = ("cifar10", "celebahq256_paper", "celebahq256")
# In the precision of the recipe.
FORMS = {
    "eager": ("train.compile=false", "train.channels_last=false"),
    "channels_last": ("train.compile=false", "train.channels_last=true"),
    "compiled": ("train.compile=true", "train.channels_last=true"),
}
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
SAMPLES = 50_000
# Evaluations that a sample is worth: of the published flow, and what docs/samplers.md recommends of
# the others.
EVALUATIONS = {"ode": 312, "em": 500, "sscs": 150, "exponential": 20}
# Steps before and within each measurement.
_WARM_UP, _STEPS = 5, 10


def topic(settings: Settings) -> Report:
    if not settings.is_gpu and not settings.quick:
        report = Report(topic="gpu", title="no GPU on this machine")
        report.notes.append(
            "on a machine with a GPU: `python -m benchmarks gpu --json gpu.json` (docs/gpu.md)"
        )
        return report
    peak = half_rate(settings)
    report = Report(
        topic="gpu",
        title=torch.cuda.get_device_name() if settings.is_gpu else "small sizes on the CPU",
    )
    report.notes.append(
        f"products in half precision: {peak / 1e12:.3g} TFLOP/s, which MFU is relative to"
    )
    for name in RECIPES[:1] if settings.quick else RECIPES:
        # Compiling takes minutes.
        forms = [form for form in FORMS if form != "compiled" or not settings.quick]
        report.rows += [_steps(settings, name, form, peak) for form in forms]
        report.rows += _samplers(settings, name)
    return report


def halved(rows: int, call: Callable[[int], Result]) -> tuple[int, Result] | None:
    """The first of ``rows``, half of them, a quarter, ... that fit into memory, and what ``call``
    returns for them.

    None if not even one row fits.
    """
    while rows:
        try:
            return rows, call(rows)
        except torch.OutOfMemoryError:
            rows //= 2
        # Only here: while it is handled, the error's traceback keeps the tensors of all frames
        # alive.
        gc.collect()
        torch.cuda.empty_cache()
    return None


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


def _steps(settings: Settings, name: str, form: str, peak: float) -> Row:
    """Training in one form, on fewer rows if they do not fit into memory."""

    def row(rows: int) -> Row:
        return _training(
            settings, _recipe(settings, name, *FORMS[form], f"train.batch_size={rows}"), peak
        )

    fitting = halved(_recipe(settings, name).train.batch_size, row) or (
        0,
        Row(name="", seconds=None, note="does not fit"),
    )
    return replace(fitting[1], name=f"{name}, {form}")


def _recipe(settings: Settings, name: str, *keys: str) -> Recipe:
    # CPUs compute float16 slowly.
    own = ("train.precision=fp32", *keys) if settings.quick else keys
    return image_recipe(settings.work, name, *own, small=settings.quick, gpus=int(settings.is_gpu))


def _training(settings: Settings, recipe: Recipe, peak: float) -> Row:
    numbers = itertools.count()
    if settings.is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with execution.using(tf32=recipe.train.tf32, fixed_shapes=True):
        trainer = Trainer(recipe, Ranks(device=torch.device(settings.device)))
        try:
            first = seconds(lambda: trainer.step(next(numbers)), settings)
            for _ in range(_WARM_UP):
                trainer.step(next(numbers))
            count = 1 if settings.quick else _STEPS
            taken = [
                seconds(lambda: trainer.step(next(numbers)), settings, count)
                for _ in range(settings.rounds)
            ]
            most = torch.cuda.max_memory_allocated() if settings.is_gpu else 0
        finally:
            trainer.close()
    second, rows = statistics.median(taken), recipe.train.batch_size
    note = (
        f"{rows} rows: {rows / second:.0f} images/s, first step {first:.1f} s, "
        f"{most / 2**30:.1f} GiB, MFU {100 * flops(recipe) / second / peak:.0f} %"
    )
    return Row(name="", seconds=second, best=min(taken), note=note)


def flops(recipe: Recipe) -> float:
    """FLOP of the products and convolutions of a step, forward and backward, in any form; computed
    without numbers."""
    rows, diffusion, shape = recipe.train.batch_size, sde.build(recipe.sde), recipe.data.shape
    assert shape is not None, "recipes of images say how large they are"
    # torch does not count the fused attention of CPUs.
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net = nets.of_recipe(recipe, shape)
        u = torch.empty(rows, diffusion.n * shape[0], *shape[1:])
        net(u, torch.empty(rows)).sum().backward()
    return float(counter.get_total_flops())


def _samplers(settings: Settings, name: str) -> Iterator[Row]:
    """Seconds of one evaluation of a batch, and hours for `SAMPLES` samples."""
    recipe = _recipe(settings, name)
    rows = 2 if settings.quick else recipe.eval.batch_size
    model = untrained(recipe, settings.device)
    for method, precision in itertools.product(EVALUATIONS, PRECISIONS):
        each, _ = per_evaluation(settings, model, rows, method, precision=precision)
        hours = each * EVALUATIONS[method] * SAMPLES / rows / 3600
        note = (
            f"evaluations of {rows} rows; {SAMPLES:,} samples of {EVALUATIONS[method]} "
            f"evaluations in {hours:.2f} h"
        )
        yield Row(name=f"{name}, {method}, {precision}", seconds=each, note=note)


def untrained(recipe: Recipe, device: str) -> Model:
    """A model with the same random weights on any device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(recipe, device)
    model.net.requires_grad_(False)
    return model


def per_evaluation(
    settings: Settings, model: Model, rows: int, method: str, **keys: Any
) -> tuple[float, Samples]:
    """Seconds that a sampler takes for each network evaluation of ``rows`` samples, and what it
    drew.

    Args:
        keys: further keys of the recipe's `sampling` section.
    """
    few = {"rtol": 1e-1, "atol": 1e-1} if method == "ode" else {"nfe": 6}
    drawn: list[Samples] = []

    def draw() -> None:
        drawn.append(model.draw(rows, method=method, **few, **keys))

    # The first loads kernels, and compiles if it is asked to.
    draw()
    return seconds(draw, settings) / drawn[-1].nfe, drawn[-1]
