"""The study of docs/samplers-measured.md asks for what the recipes know, and reads what evaluations write."""

import json

import pytest

from benchmarks import diffusions
from cld_core.config import load
from tests.support.paths import RECIPES


@pytest.mark.parametrize("density", diffusions.DENSITIES)
@pytest.mark.parametrize("diffusion", diffusions.DIFFUSIONS)
def test_every_sampler_is_one_of_the_recipe(diffusion, density):
    file = RECIPES / f"{diffusions.DIFFUSIONS[diffusion]}.yaml"
    for name, keys in diffusions.samplers(diffusion).items():
        recipe = load(file, [f"data.name={diffusions.DENSITIES[density]}", *keys])
        assert name == "flow" or recipe.sampling.nfe == int(name)


def test_results_are_found_by_their_settings(tmp_path):
    evaluations = {
        "elbo": ({"sampling": {"method": "ode"}}, {"elbo": {"nll": -1.5}}),
        "a": ({"sampling": {"method": "ode"}}, {"w2": {"value": 0.03, "floor": 0.02}}),
        "b": ({"sampling": {"method": "exponential", "nfe": 20}}, {"w2": {"value": 0.04, "floor": 0.02}}),
    }
    for name, (request, report) in evaluations.items():
        folder = tmp_path / "evals" / name
        folder.mkdir(parents=True)
        (folder / "request.json").write_text(json.dumps(request))
        (folder / "report.json").write_text(json.dumps(report))
    assert diffusions.results(tmp_path) == {"nll": -1.5, "flow": 0.03, "20": 0.04, "floor": 0.02}
