"""Exact conditional densities by quadrature, against those of mixtures."""

import pytest
import torch

from cld_core.analytic import GaussianMixture, diamond
from cld_core.conditioning import GradientGuidance, Observation, Replacement
from cld_core.config import load
from cld_core.data import toy
from cld_core.errors import UsageError
from cld_core.evaluate import conditional
from cld_core.model import Model
from tests.support.paths import RECIPES

MASK = torch.tensor([True, False])
FIRST = Observation.masked(torch.tensor([0.3, 0.0]), MASK)
CASES = {
    "exact": FIRST,
    "noisy": Observation.masked(torch.tensor([0.3, 0.0]), MASK, 0.1),
    "mean of both": Observation.linear(torch.tensor([[0.5, 0.5]]), torch.tensor([0.2]), 0.1),
}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(load(RECIPES / "toy_diamond.yaml", ["network.width=16", "network.layers=3"]))


@pytest.mark.parametrize("name", CASES)
def test_log_densities_are_those_of_the_mixture(model, name):
    observation = CASES[name]
    matrix = observation.operator.apply(torch.eye(2)).T
    given = diamond().given(matrix, observation.y, observation.sigma)
    density = conditional.of_model(model, observation)
    x = given.sample(2000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(density.log_density(x), given.log_density(x), rtol=0, atol=1e-5)
    assert density.mean_log_density == pytest.approx(float(given.log_density(x).mean()), abs=0.1)


@pytest.mark.parametrize("name", CASES)
def test_of_a_class_it_is_that_of_its_component(model, name):
    observation = CASES[name]
    matrix = observation.operator.apply(torch.eye(2)).T
    given = GaussianMixture(diamond().means[3:4], diamond().std).given(matrix, observation.y, observation.sigma)
    density = conditional.of_model(model, observation, label=3)
    x = given.sample(2000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(density.log_density(x), given.log_density(x), rtol=0, atol=1e-5)
    assert density.mean_log_density == pytest.approx(float(given.log_density(x).mean()), abs=0.1)


def test_nothing_is_claimed_without_a_density(model):
    assert conditional.ConditionalDensity.of(toy.Toy("none", lambda n, g: torch.zeros(n, 2)), FIRST, None) is None
    oblique = Observation.linear(torch.tensor([[0.5, 0.5]]), torch.tensor([0.2]))
    assert conditional.of_model(model, oblique) is None


@pytest.mark.parametrize("name", CASES)
def test_pictures_and_words(model, tmp_path, name):
    x = diamond().sample(50, torch.Generator().manual_seed(0))
    density = conditional.of_model(model, CASES[name])
    conditional.show(tmp_path / "p.png", x, model, CASES[name], density, "by hand")
    assert (tmp_path / "p.png").stat().st_size > 10_000
    said = conditional.agreement(x, CASES[name], density)
    assert "mean conditional log-density" in said


def test_a_sample_given_an_observation_does_not_depend_on_its_batch(model):
    for by in (None, GradientGuidance(covariance="isotropic"), Replacement()):
        keys = {"method": "exponential", "nfe": 8, "observation": FIRST, "by": by}
        whole = model.sample(6, batch_size=6, **keys)
        torch.testing.assert_close(model.sample(6, batch_size=4, **keys), whole, rtol=1e-4, atol=1e-4)
        assert not torch.equal(whole, model.sample(6, method="exponential", nfe=8))


def test_an_observation_of_other_data_is_refused(model):
    image = Observation.downscaled(torch.zeros(3, 2, 2), 2)
    with pytest.raises(UsageError, match=r"shape \(3, 4, 4\), and the model draws \(2,\)"):
        model.sample(2, observation=image)
