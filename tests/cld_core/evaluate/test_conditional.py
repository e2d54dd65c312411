"""Exact conditional densities by quadrature, against those of mixtures."""

import pytest
import torch

from cld_core import pictures
from cld_core.analytic import GaussianMixture, diamond
from cld_core.conditioning import GradientGuidance, Observation, Replacement
from cld_core.data import toy
from cld_core.evaluate.vectors import ConditionalDensity, agreement
from cld_core.model import Model
from tests.support.numeric import Given, seeded
from tests.support.recipes import shipped_recipe

MASK = torch.tensor([True, False])
FIRST = Observation.masked(torch.tensor([0.3, 0.0]), MASK)
CASES = {
    "exact": FIRST,
    "noisy": Observation.masked(torch.tensor([0.3, 0.0]), MASK, 0.1),
    "mean of both": Observation.linear(torch.tensor([[0.5, 0.5]]), torch.tensor([0.2]), 0.1),
}


@pytest.fixture(scope="module")
def model():
    return Model(shipped_recipe("toy_diamond", "network.width=16", "network.layers=3"))


@pytest.mark.parametrize("label", [None, 3])
@pytest.mark.parametrize("name", CASES)
def test_log_densities_are_those_of_the_mixture_or_of_a_component(model, name, label):
    observation = CASES[name]
    law = diamond()
    matrix = observation.apply(torch.eye(2)).T
    law = law if label is None else GaussianMixture(law.means[label : label + 1], law.std)
    given = Given(law, matrix, observation.y, observation.sigma)
    density = ConditionalDensity.of(model, observation, label)
    x = given.sample(2000, seeded())
    torch.testing.assert_close(density.log_density(x), given.log_density(x), rtol=0, atol=1e-5)
    assert density.mean_log_density == pytest.approx(float(given.log_density(x).mean()), abs=0.1)


def test_nothing_is_claimed_without_a_density(model, monkeypatch):
    oblique = Observation.linear(torch.tensor([[0.5, 0.5]]), torch.tensor([0.2]))
    assert ConditionalDensity.of(model, oblique) is None
    monkeypatch.setattr(model.source, "density", toy.Toy("none", lambda n, g: torch.zeros(n, 2)))
    assert ConditionalDensity.of(model, FIRST) is None


@pytest.mark.parametrize("name", CASES)
def test_pictures_and_words(model, tmp_path, name):
    x = diamond().sample(50, seeded())
    density = ConditionalDensity.of(model, CASES[name])
    pictures.show_given(tmp_path / "p.png", x, model, CASES[name], density.line, "by hand")
    assert (tmp_path / "p.png").stat().st_size > 10_000
    said = agreement(x, CASES[name], density)
    assert "mean conditional log-density" in said


def test_a_sample_given_an_observation_does_not_depend_on_its_batch(model):
    for by in (None, GradientGuidance(covariance="isotropic"), Replacement()):
        keys = {"method": "exponential", "nfe": 8, "observation": FIRST, "by": by}
        whole = model.sample(6, batch_size=6, **keys)
        torch.testing.assert_close(
            model.sample(6, batch_size=4, **keys), whole, rtol=1e-4, atol=1e-4
        )
        assert not torch.equal(whole, model.sample(6, method="exponential", nfe=8))
