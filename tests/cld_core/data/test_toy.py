import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cld_core.config.data import ToyDataSpec
from cld_core.config.registry import SECTIONS
from cld_core.data import toy
from cld_core.data.source import require_usable, source
from cld_core.errors import DataError, RecipeError
from tests.support.plugin import toy_plugin
from tests.support.recipes import toy_recipe

TOY_DATA = [
    name for name, variant in SECTIONS["data"].variants.items() if variant.spec is ToyDataSpec
]


def draws(name, n=4000):
    return toy.get(name).sample(n, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", TOY_DATA)
def test_samples(name):
    x = draws(name, 100)
    assert x.shape == (100, *toy.get(name).data_shape)
    assert x.dtype == torch.float32
    assert torch.equal(x, draws(name, 100))


@pytest.mark.parametrize("name", TOY_DATA)
def test_mean_log_density_of_samples_is_minus_the_entropy(name):
    density = toy.get(name)
    logp = density.log_density(draws(name))
    assert logp.dtype == torch.float64
    within = 4 * float(logp.std()) / len(logp) ** 0.5
    assert float(logp.mean()) == pytest.approx(-density.entropy(), abs=within)


@pytest.mark.parametrize(
    ("name", "reach", "step"), [("diamond", 1.0, 0.01), ("gaussian", 4.0, 0.1)]
)
def test_density_integrates_to_one(name, reach, step):
    axis = torch.arange(-reach, reach, step, dtype=torch.float64)
    p = toy.get(name).log_density(torch.cartesian_prod(axis, axis)).exp()
    assert float(p.sum()) * step**2 == pytest.approx(1.0, abs=1e-9)


def test_a_roll_holds_a_fifth_of_the_mass():
    # Three quarters of the standard deviation of the noise: the trapezoid rule is exact to 1e-10.
    step = 0.0015
    axis = torch.arange(-0.17, 0.17, step, dtype=torch.float64)
    centre = torch.tensor([0.8, -0.8], dtype=torch.float64)
    p = toy.get("multimodal_swissroll").on_grid(axis + centre[0], axis + centre[1])
    assert float(p.sum()) * step**2 == pytest.approx(0.2, abs=1e-9)


def test_on_a_grid_the_density_is_the_same():
    roll = toy.get("multimodal_swissroll")
    x = torch.linspace(0.6, 1.0, 120, dtype=torch.float64)
    y = torch.linspace(-1.0, -0.6, 120, dtype=torch.float64)
    points = roll.log_density(torch.cartesian_prod(x, y)).exp().reshape(120, 120)
    assert float(points.max()) > 1.0
    assert_close(roll.on_grid(x, y), points, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["diamond", "multimodal_swissroll"])
def test_the_log_density_of_a_class_is_that_of_all_cut_off_and_scaled(name):
    known = toy.get(name)
    x = draws(name)
    label = known.label(x)
    exact = known.log_density_of(2)
    cut = replace(known, given=None).log_density_of(2)
    assert_close(exact(x)[label == 2], cut(x)[label == 2], rtol=0, atol=1e-6)
    assert torch.isfinite(exact(x)).all()
    assert (cut(x)[label != 2] == -math.inf).all()
    assert known.log_density_of(None) is known.log_density
    assert replace(known, given=None, log_density=None).log_density_of(2) is None


def test_true_entropies():
    # Nine disjoint Gaussians: 1e-8 is their overlap.
    nine = math.log(9) + math.log(2 * math.pi * math.e * 0.04**2)
    assert toy.get("diamond").entropy() == pytest.approx(nine, abs=1e-8)
    assert toy.get("multimodal_swissroll").entropy() == pytest.approx(-3.337359, abs=1e-6)


def test_swiss_roll_quadrature_has_converged(monkeypatch):
    x = draws("multimodal_swissroll", 200)
    coarse = toy.get("multimodal_swissroll").log_density(x)
    monkeypatch.setattr(toy, "_ROLL_PANELS", 200)
    toy._roll.cache_clear()
    fine = toy.get("multimodal_swissroll").log_density(x)
    toy._roll.cache_clear()
    assert_close(coarse, fine, rtol=0, atol=1e-11)


def test_unknown_name_lists_what_there_is():
    with pytest.raises(DataError, match=r"no toy data 'diamont'.*Did you mean 'diamond'\?"):
        toy.get("diamont")
    with pytest.raises(DataError, match="`plugins`"):
        toy.get("zzz")


def recipe_with(plugin, name):
    return toy_recipe(f"plugins={plugin}", f"data.name={name}")


def test_plugin_file(tmp_path):
    path = toy_plugin(tmp_path / "mine.py", "test_square")
    for _ in range(2):  # importing it twice is no conflict
        assert recipe_with(path, "test_square").data == ToyDataSpec(name="test_square")
    density = toy.get("test_square")
    assert density.sample(3, torch.Generator()).shape == (3, 2)
    assert density.log_density is None


def test_plugin_module(tmp_path, monkeypatch):
    toy_plugin(tmp_path / "toy_plugin_for_test.py", "test_module")
    monkeypatch.syspath_prepend(tmp_path)
    recipe_with("toy_plugin_for_test", "test_module")
    assert toy.get("test_module").name == "test_module"


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (
            "torch.randn(n, 5, generator=generator)",
            r"'test_looked' returned shape \(7, 5\) .*@toy\('test_looked', shape=\(5,\)\)",
        ),
        ("torch.full((n, 2), float('nan'))", "not finite"),
        ("torch.zeros(n, 2, dtype=torch.int64)", "not float32"),
        ("torch.zeros(n, 2) / unknown", "looked.*NameError.*Correct it"),
    ],
)
def test_a_batch_of_a_plug_in_is_checked(tmp_path, points, words):
    path = toy_plugin(tmp_path / "looked.py", "test_looked", points=points)
    with pytest.raises((DataError, RecipeError), match=words):
        require_usable(recipe_with(path, "test_looked"))


def test_examples_of_any_shape(tmp_path):
    made = {"points": "torch.randn(n, 3, 4)", "more": ", shape=(3, 4)"}
    path = toy_plugin(tmp_path / "solid.py", "test_deep", **made)
    recipe = recipe_with(path, "test_deep")
    assert require_usable(recipe) == source(recipe.data).shape == (3, 4)
