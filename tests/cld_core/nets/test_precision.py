"""Precision and memory format of the network that samples are drawn with."""

import pytest
import torch
from torch import nn

from cld_core.config import load
from cld_core.model import Model
from cld_core.nets import precision
from tests.support.images import TINY, make_images
from tests.support.paths import RECIPES

TOY = load(RECIPES / "toy.yaml", ["network.width=16", "network.layers=2"])
CPU = torch.device("cpu")


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(TOY)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    data = make_images(tmp_path_factory.mktemp("precision") / "set")
    recipe = load(RECIPES / "cifar10_smoke.yaml", [*TINY, f"data.path={data}", "sampling.nfe=3"])

    def made() -> Model:
        torch.manual_seed(0)
        net = Model(recipe)
        with torch.no_grad():
            for weight in net.net.parameters():  # the last layer starts at 0
                weight.copy_(0.1 * torch.randn(weight.shape))
        return net

    return made


def layers_of(model: Model, kind: type[nn.Module]) -> list[torch.Tensor]:
    """The outputs of its layers of a kind, in a list that grows with every call."""
    outputs: list[torch.Tensor] = []
    for layer in model.net.modules():
        if isinstance(layer, kind):
            layer.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    return outputs


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
@pytest.mark.parametrize("method", ["ode", "exponential"])
def test_the_network_alone_computes_in_it(model, name, dtype, method):
    # Nearer to the data, an untrained network leads beyond the largest number of fp16.
    settings = {"method": method, "eps": 0.5, **({"rtol": 0.1, "atol": 0.1} if method == "ode" else {"nfe": 6})}
    outputs = layers_of(model, nn.Linear)
    exact = model.sample(20, **settings)
    outputs.clear()
    found = model.sample(20, precision=name, **settings)
    assert {output.dtype for output in outputs} == {dtype}
    assert found.dtype == torch.float32
    if dtype == torch.float32:
        assert torch.equal(found, exact)
    elif method == "exponential":  # the steps of the other depend on rounding
        assert 0 < float((found - exact).norm() / exact.norm()) < 0.05


def test_the_score_has_the_precision_of_its_input(model):
    score = model.score_of(compiled=False, precision="bf16")
    model.net.requires_grad_(False)
    u = torch.randn(5, 4)
    exact = model.score(u, 0.5)
    torch.testing.assert_close(score(u, 0.5), exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))
    assert score(u.double(), 0.5).dtype == torch.float64
    assert model.score_of(compiled=False, precision="bf16") is score
    assert model.score_of(compiled=False) is model.score


def test_on_the_cpu_nothing_is_changed(images):
    made = images()
    assert made.score.net is made.net
    assert all(weight.is_contiguous() for weight in made.net.parameters())
    precision.store(made.net, channels_last=True)  # as `train.channels_last` does
    assert precision.prepared(made.net, CPU, "fp32") is made.net


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_images_are_computed_with_channels_last_where_that_is_preferred(images, name, monkeypatch):
    exact = images().sample(3, precision=name)
    monkeypatch.setattr(precision, "prefers_channels_last", lambda device: True)
    made, seen = images(), []
    made.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = made.sample(3, precision=name)
    assert {u.is_contiguous(memory_format=torch.channels_last) for u in seen} == {True}
    assert any(weight.ndim == 4 and not weight.is_contiguous() for weight in made.net.parameters())
    tolerance = 1e-4 if name == "fp32" else 0.1
    torch.testing.assert_close(found, exact, rtol=tolerance, atol=tolerance)
