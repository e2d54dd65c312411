"""The study of docs/samplers-measured.md asks for what the recipes know, and reads what evaluations write."""

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
