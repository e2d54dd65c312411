"""Paths in recipes: where relative ones are taken from."""

from pathlib import Path

import pytest

from cld_core.config import load, with_overrides
from cld_core.config.loader import anchored_overrides
from cld_core.errors import RecipeError
from tests.support.paths import RECIPES

KEYS = {
    "toy": ["eval.fid.weights=w.pth", "eval.fid.stats=s.npz"],
    "cifar10": ["data.path=images", "eval.fid.stats=s.npz"],
}


def at(recipe, path):
    for name in path.split("."):
        recipe = getattr(recipe, name)
    return recipe


@pytest.mark.parametrize("name", KEYS)
def test_every_path_of_a_recipe_is_anchored(name, tmp_path):
    recipe = load(RECIPES / f"{name}.yaml", KEYS[name])
    anchored = recipe.anchored(tmp_path)
    for text in KEYS[name]:
        key, value = text.split("=")
        assert at(recipe, key) == value
        assert at(anchored, key) == str(tmp_path / value)
    assert anchored.anchored(tmp_path / "elsewhere") == anchored


def test_what_is_not_a_relative_path_stays(tmp_path):
    recipe = load(RECIPES / "toy.yaml", ["plugins=json.tool", "eval.fid.stats=/x/s.npz"])
    assert recipe.plugins == ("json.tool",)
    assert recipe.anchored(tmp_path) == recipe
    home = load(RECIPES / "cifar10.yaml", ["data.path=~/images"]).anchored(tmp_path)
    assert "~" not in home.data.path
    assert not home.data.path.startswith(str(tmp_path))


def test_overrides_are_anchored_as_text(tmp_path):
    overrides = ["data.path=images", "train.steps=5", "eval.fid.weights=null", "eval.fid.stats=s.npz"]
    recipe = with_overrides(load(RECIPES / "cifar10.yaml").anchored(tmp_path), overrides)
    assert anchored_overrides(overrides, recipe, tmp_path) == [
        f"data.path={tmp_path / 'images'}",
        "train.steps=5",
        "eval.fid.weights=null",
        f"eval.fid.stats={tmp_path / 's.npz'}",
    ]


def test_paths_that_lead_nowhere():
    with pytest.raises(RecipeError, match="'path' cannot be '~nobody-is-called-so/x'"):
        load(RECIPES / "cifar10.yaml", ["data.path=~nobody-is-called-so/x"]).anchored(Path.cwd())
