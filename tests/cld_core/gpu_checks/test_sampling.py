"""Samples that depend on the device or are not finite are found, and features that differ; the clock is made up."""

import math
from dataclasses import replace

import pytest
import torch

from cld_core import numerics
from cld_core.evaluation.extractors import Extractor
from cld_core.gpu_checks import fid, sampling
from cld_core.gpu_checks.setups import image_recipe
from cld_core.model import Model
from cld_core.seeds import SampleNoise


def test_noise_that_depends_on_the_device_is_found(context, monkeypatch):
    drawn = []
    normal = SampleNoise.normal

    def other_each_time(self, *arguments, **options):
        drawn.append(1)
        return normal(self, *arguments, **options) * (-1.0) ** len(drawn)

    monkeypatch.setattr(SampleNoise, "normal", other_each_time)
    finding = sampling.same_as_cpu(context)
    assert finding.verdict == "fail"


def test_a_network_that_computes_something_else_on_the_device_is_found(context, monkeypatch):
    made = []
    build = Model.__init__

    def other_each_time(self, *arguments, **options):
        build(self, *arguments, **options)
        made.append(self)
        if len(made) > 1:
            with torch.no_grad():
                for parameter in self.net.parameters():
                    parameter.mul_(1.02)

    monkeypatch.setattr(Model, "__init__", other_each_time)
    assert sampling.same_as_cpu(context).verdict == "fail"


@pytest.mark.parametrize("method", sampling.EVALUATIONS)
def test_samples_that_are_not_finite_are_found(context, monkeypatch, method):
    draw = Model.draw

    def spoiled(self, *arguments, **options):
        samples = draw(self, *arguments, **options)
        samples.x[0].fill_(math.nan)
        return samples

    monkeypatch.setattr(Model, "draw", spoiled)
    finding = sampling.check(context, method)
    assert finding.verdict == "fail"
    assert "not finite" in finding.found


def test_rates_are_those_of_the_evaluations_that_a_sampler_is_worth(context):
    """Two samples and 6 evaluations in a second: 500 evaluations take 83 seconds."""
    times = iter([0.0, 1.0])
    finding = sampling.check(replace(context, clock=lambda: next(times)), "em")
    assert finding.found == "0.024 samples/s at 500 evaluations, 166.7 ms per evaluation of 2"


@pytest.mark.parametrize(("precision", "used"), [("fp32", False), ("tf32", True), ("bf16", False), ("fp16", False)])
def test_each_precision_is_measured_as_it_is_named(context, precision, used):
    model = sampling.untrained(image_recipe(context, "cifar10"), "cpu")
    seen, kinds = set(), set()

    def record(module, arguments, output):
        seen.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        kinds.add(output.dtype)

    convolution = next(module for module in model.net.modules() if isinstance(module, torch.nn.Conv2d))
    convolution.register_forward_hook(record)
    # From outside, nothing may decide.
    with numerics.using(tf32=not used):
        sampling.per_evaluation(context, model, 1, "exponential", precision=precision)
    assert seen == {(used, used)}
    assert kinds == {{"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)}


@pytest.fixture
def extractor(monkeypatch):
    """Instead of Inception: one that differs from the first that was made by this factor."""

    class Extracting:
        factor = 1.0
        made = 0

        def __init__(self, *_):
            Extracting.made += 1
            self.scale = 1.0 if Extracting.made == 1 else Extracting.factor

        def __call__(self, pixels):
            return {"features": self.scale * pixels.float().flatten(1).numpy()}

    monkeypatch.setattr(fid, "Extractor", Extracting)
    monkeypatch.setattr(fid, "random_inception", lambda path: (path.write_bytes(b"") and path) or path)
    return Extracting


def test_features_that_differ_are_found(context, extractor):
    assert fid.check(context).verdict == "ok"
    extractor.made, extractor.factor = 0, 1.001
    finding = fid.check(context)
    assert finding.verdict == "fail"
    assert "features differ from the CPU's by 1.0e-03" in finding.found


@pytest.mark.slow
def test_the_random_inception_is_one_that_an_extractor_takes(tmp_path):
    from cld_core.digests import digest_of
    from cld_core.evaluation.feature_inputs import Extraction
    from cld_core.recipe.eval import INCEPTION

    weights = fid.random_inception(tmp_path / "weights.pth")
    about = Extraction(extractor=INCEPTION, layer="2048", weights=digest_of(weights))
    found = Extractor(about, {"weights": str(weights)}, "cpu")(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert found["features"].shape == (1, 2048)
    assert abs(found["features"]).max() > 0
