"""Keys of a recipe as arguments of functions."""

import numpy as np
import pytest
import torch

from cld_core.config import load
from cld_core.config.arguments import elbo_spec, sampling_spec
from cld_core.config.sampling import EmSpec, ExponentialSpec
from cld_core.errors import RecipeError
from tests.support.paths import RECIPES

METHODS = "ode, em, sscs, exponential, gddim, conjugate, splitting, tuned"
TOY = load(RECIPES / "toy.yaml", ["sampling.eps=2e-3"])


def test_nothing_given_is_the_recipe():
    assert sampling_spec(TOY, {"method": None, "nfe": None}, "f") is TOY.sampling


def test_another_method_keeps_what_both_have():
    assert sampling_spec(TOY, {"method": "em", "nfe": 7}, "f") == EmSpec(eps=2e-3, nfe=7)
    recipe = load(RECIPES / "toy.yaml", ["sampling.method=exponential", "sampling.nfe=9", "sampling.order=2"])
    assert sampling_spec(recipe, {"eta": 1}, "f") == ExponentialSpec(nfe=9, order=2, eta=1.0)


@pytest.mark.parametrize("seven", [7, 7.0, np.int64(7), torch.tensor(7)])
def test_numbers_of_other_libraries_are_numbers(seven):
    nfe = sampling_spec(TOY, {"method": "em", "nfe": seven}, "f").nfe
    assert (nfe, type(nfe)) == (7, int)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "odee"}, ["'method' cannot be 'odee'", METHODS, "Did you mean 'ode'?"]),
        ({"nfee": 20}, ["unknown key 'nfee' (with method=ode)", "Did you mean 'nfe' (with method=em, sscs"]),
        ({"nfe": 20}, ["'nfe' is not a key of method=ode. Set method=em, sscs", "eps, denoise"]),
        ({"method": "em", "nfe": 0}, ["'nfe' cannot be 0", ">= 2 and <= 1e+06: network evaluations"]),
        ({"denoise": 1}, ["'denoise' cannot be 1; expected true or false"]),
        ({"method": "em", "grid_power": 3}, ["'grid_power' has no effect with grid=linear. Set grid=power or leave"]),
    ],
    ids=str,
)
def test_messages_name_the_argument_and_the_fix(arguments, words):
    with pytest.raises(RecipeError) as caught:
        sampling_spec(TOY, arguments, "Model.sample")
    assert str(caught.value).startswith("Model.sample: ")
    for word in words:
        assert word in str(caught.value)


def test_a_method_that_the_diffusion_cannot_have():
    recipe = load(RECIPES / "toy.yaml", ["sde.name=vpsde", "objective.name=dsm"])
    with pytest.raises(RecipeError, match=r"^f: 'method' cannot be sscs with sde\.name=vpsde.* Set method=exponential"):
        sampling_spec(recipe, {"method": "sscs"}, "f")


def test_the_bound_starts_where_the_network_was_trained():
    recipe = load(RECIPES / "toy.yaml", ["objective.loss_eps=1e-3"])
    spec = elbo_spec(recipe, {"velocities": 4, "eps": 1e-6}, "f")
    assert (spec.velocities, spec.probes, spec.eps) == (4, 1, 1e-3)
    with pytest.raises(RecipeError, match=r"^f: unknown key 'velocites'\. Did you mean 'velocities'"):
        elbo_spec(recipe, {"velocites": 4}, "f")
