"""The card computes what a processor computes: steps in every form, samples, features of
Inception."""

import functools

import numpy as np
import pytest
import torch

from benchmarks.gpu import EVALUATIONS, per_evaluation, untrained
from benchmarks.harness import Settings
from cld_core import gpu
from cld_core.config.eval import INCEPTION
from cld_core.digests import digest_of
from cld_core.evaluate.features import Extractor
from cld_core.run.evaluations import Extraction
from tests.support.extractor import random_inception

from .conftest import DEVICE, ON_GPU

# The precision that decides about the tolerance (docs/gpu.md), and the keys of a recipe.
EXACT = ("train.precision=fp32", "train.tf32=false")
LAST = "train.channels_last=true"
FORMS = {
    "fp32": ("fp32", *EXACT, "train.channels_last=false"),
    "channels_last": ("fp32", *EXACT, LAST),
    "compiled": ("fp32", *EXACT, LAST, "train.compile=true"),
    "tf32": ("tf32", "train.precision=fp32", "train.tf32=true", LAST),
    "bf16": ("bf16", "train.precision=bf16", LAST),
    "bf16 compiled": ("bf16", "train.precision=bf16", LAST, "train.compile=true"),
    "fp16": ("fp16", "train.precision=fp16", LAST),
    "fp16 compiled": ("fp16", "train.precision=fp16", LAST, "train.compile=true"),
}
SHALLOW = {
    "cifar10": gpu.COMPARABLE,
    "celebahq256": (*gpu.COMPARABLE, "network.blocks=1", "train.batch_size=1"),
}
# Of what float32 keeps of one evaluation (2^-13), a few in a row may lose some more. Other noise
# would make 1.
SAMPLES_TOLERANCE, FEATURES_TOLERANCE = 2.0**-10, 2.0**-13


def test_products_use_tf32_where_it_is_on_and_only_there(device):
    finding = gpu.precisions(device)
    assert finding.verdict == "ok", finding.found


def test_memory_holds_what_is_written_into_it(device):
    finding = gpu.memory(device, None if ON_GPU else 2**20)
    assert finding.verdict == "ok", finding.found


@pytest.fixture(scope="session")
def reference(recipe):
    """A step in float32 on the processor."""

    @functools.cache
    def reference(name):
        return gpu.numbers(
            recipe(name, *SHALLOW[name], *EXACT, "train.channels_last=false"), torch.device("cpu")
        )

    return reference


@pytest.mark.parametrize(
    ("name", "form"),
    [*(("cifar10", form) for form in FORMS), ("celebahq256", "fp16")],
    ids=lambda value: value,
)
def test_a_step_is_that_of_a_processor(device, recipe, reference, name, form):
    kind, *keys = FORMS[form]
    found = gpu.numbers(recipe(name, *SHALLOW[name], "train.compile=false", *keys), device)
    fits, text = gpu.compared(found, reference(name), kind)
    print(text)
    assert fits, text


def test_samples_are_those_of_a_processor(recipe):
    made = recipe("cifar10", *gpu.COMPARABLE)
    expected, found = (
        untrained(made, device).sample(2, method="exponential", nfe=6).double().cpu()
        for device in ("cpu", str(DEVICE))
    )
    assert float((found - expected).norm() / expected.norm()) <= SAMPLES_TOLERANCE


def test_compiled_samples_are_those_of_the_plain_network(recipe):
    """On a GPU they are computed by recorded CUDA graphs."""
    model = untrained(recipe("cifar10", *gpu.COMPARABLE), str(DEVICE))
    plain, compiled = (
        model.sample(8, method="exponential", nfe=6, compile=it) for it in (False, True)
    )
    assert float((compiled - plain).norm() / plain.norm()) <= SAMPLES_TOLERANCE


@pytest.mark.parametrize("method", EVALUATIONS)
def test_samples_are_finite(recipe, method):
    """In the batches of an evaluation; prints how fast they are."""
    made = recipe("cifar10")
    rows = made.eval.batch_size if ON_GPU else 2
    each, samples = per_evaluation(
        Settings(device=str(DEVICE)), untrained(made, str(DEVICE)), rows, method
    )
    rate = rows / (each * EVALUATIONS[method])
    print(
        f"{rate:.3g} samples/s at {EVALUATIONS[method]} evaluations, {1e3 * each:.1f} ms per "
        f"evaluation of {rows}"
    )
    assert bool(torch.isfinite(samples.x).all())


def test_features_of_inception_are_those_of_a_processor(tmp_path):
    weights = random_inception(tmp_path / "inception.pth")
    about = Extraction(extractor=INCEPTION, layer="2048", weights=digest_of(weights))
    pixels = torch.randint(
        0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    expected, found = (
        Extractor(about, {"weights": str(weights)}, device)(pixels)["features"]
        for device in ("cpu", str(DEVICE))
    )
    assert np.linalg.norm(found - expected) <= FEATURES_TOLERANCE * np.linalg.norm(expected)
