"""What people do with a model in Python."""

import math

import pytest
import torch

import cld_core
from cld_core.analytic import gaussian
from cld_core.config import load
from cld_core.errors import UsageError
from cld_core.evaluate.likelihood import ElboRows
from cld_core.evaluate.request import EvalRequest
from cld_core.likelihood import Likelihood
from cld_core.model import Model
from cld_core.samplers import Samples
from tests.support.paths import RECIPES

SMALL = ["network.width=16", "network.layers=3"]
METHODS = [{"method": "ode"}, *({"method": method, "nfe": 12} for method in ("em", "sscs", "exponential"))]


@pytest.fixture(scope="module")
def toy() -> Model:
    return Model(load(RECIPES / "toy.yaml", SMALL), step=1200)


@pytest.fixture(scope="module")
def images() -> Model:
    return Model(load(RECIPES / "cifar10_smoke.yaml", ["data.path=nowhere"]))


def test_what_a_model_says_of_itself(toy, tmp_path):
    assert repr(toy).splitlines() == [
        "Model toy, step 1,200",
        "  sde      cld: beta0=4, beta1=0, m_inv=4, gamma=0.04",
        "  network  mlp: 402 parameters, float32, on cpu",
        "  data     multimodal_swissroll: points of shape (2,)",
        "  sampler  ode: rtol=1e-05, atol=1e-05, eps=0.001, denoise=True",
    ]
    toy.export(tmp_path / "x.safetensors")
    again = cld_core.load(tmp_path / "x.safetensors")
    assert isinstance(again, cld_core.Model)
    assert repr(again).splitlines()[0] == "Model toy of x.safetensors, step 1,200"


@pytest.mark.parametrize("method", METHODS, ids=lambda it: it["method"])
def test_a_trajectory_ends_at_the_samples(toy, method):
    t, x, v = toy.trajectory(5, points=9, seed=3, first=2, **method)
    assert t.shape == (9,)
    assert x.shape == v.shape == (9, 5, 2)
    assert t[:1].tolist() + t[-2:].tolist() == [1.0, 1e-3, 0.0]
    drawn = toy.draw(5, seed=3, first=2, **method)
    assert torch.equal(x[-1], drawn.x)
    assert torch.equal(v[-1], drawn.v)
    assert torch.equal(x[-1], toy.sample(5, seed=3, first=2, **method))
    noisy = toy.trajectory(5, points=9, seed=3, first=2, denoise=False, **method)
    assert torch.equal(noisy.x[-1], toy.sample(5, seed=3, first=2, denoise=False, **method))
    assert noisy.t[-1] == 1e-3


def test_a_diffusion_of_x_alone_has_no_velocities():
    recipe = load(RECIPES / "toy.yaml", [*SMALL, "sde.name=vpsde", "objective.name=dsm"])
    path = Model(recipe).trajectory(4, method="em", nfe=6)
    assert path.v is None
    assert path.x.shape == (7, 4, 2)


def test_the_likelihood_of_normal_data_is_exact(monkeypatch):
    exact, law = Model(load(RECIPES / "toy.yaml", [*SMALL, "data.name=gaussian"])), gaussian(0.5)
    monkeypatch.setattr(exact, "score_of", lambda **how: law.score(exact.sde))
    x = law.sample(40, torch.Generator().manual_seed(1))
    bound = exact.log_likelihood(x, exact_trace=True, rtol=1e-6, atol=1e-6)
    assert (bound.shape, bound.dtype) == ((40,), torch.float64)
    torch.testing.assert_close(bound, law.log_density(x), rtol=0, atol=2e-3)


def test_standard_errors_are_those_of_the_mean_over_draws():
    joint = 3.0 * torch.randn(4000, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = Likelihood(joint, torch.zeros_like(joint), 0.0, torch.ones(4000, 9))
    assert made.elbo_error.shape == (4000,)
    assert float(made.elbo_error.square().mean().sqrt()) == pytest.approx(float(made.elbo.std()), rel=0.05)
    assert float(made.elbo.std()) == pytest.approx(1.0, rel=0.05)
    one = Likelihood(joint[:, :1], torch.zeros(4000, 1), 0.0, torch.ones(4000, 1))
    assert one.elbo_error.isnan().all()


def test_the_bound_is_that_of_an_evaluation(toy):
    request = EvalRequest.of(toy.recipe, ["elbo"], 0)
    x = toy.source.dequantised_test_data(request.seed, 0, 5)
    theirs = ElboRows(toy, request).compute(0, 5)["elbo"]
    torch.testing.assert_close(toy.log_likelihood(x, seed=request.seed), torch.from_numpy(theirs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("x", [torch.zeros(4), torch.zeros(4, 3), torch.zeros(0, 2), [[0.0, 0.0]]], ids=str)
def test_data_of_another_shape_are_refused(toy, x):
    with pytest.raises(UsageError, match=r"^Model\.log_likelihood: x is .*: expected a tensor \(B, 2\)"):
        toy.log_likelihood(x)


def test_bits_per_dim_are_those_of_images(toy, images):
    # A uniform density over [-1, 1]^D says nothing about 8-bit grey levels: 8 bits/dim.
    uniform = torch.tensor([-math.prod(images.data_shape) * math.log(2.0)], dtype=torch.float64)
    torch.testing.assert_close(images.bits_per_dim(uniform), torch.tensor([8.0], dtype=torch.float64))
    with pytest.raises(UsageError, match="no grey levels"):
        toy.bits_per_dim(uniform)


def test_a_picture_of_points_is_beside_the_data(toy):
    from matplotlib import pyplot

    figure = toy.plot(50, method="em", nfe=5)
    data, samples = figure.axes
    assert (data.get_title(), samples.get_title().split(" (")[0]) == ("data", "samples")
    assert figure.get_suptitle() == "toy, step 1,200: 50 samples, em, 5 NFE"
    assert {axes.get_aspect() for axes in figure.axes} == {1.0}
    assert figure is pyplot.gcf()
    pyplot.close(figure)


def test_a_picture_of_images_is_a_grid(images, monkeypatch):
    from matplotlib import pyplot

    drawn = Samples(torch.zeros(9, *images.data_shape), None, torch.full((9,), 5))
    monkeypatch.setattr(images, "_draw", lambda *rest, **more: drawn)
    figure = images.plot(9)
    (axes,) = figure.axes
    assert axes.images[0].get_array().shape == (104, 104, 3)
    pyplot.close(figure)


def test_names_of_the_package():
    assert all(getattr(cld_core, name) is not None for name in cld_core.__all__)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        cld_core.other  # noqa: B018
