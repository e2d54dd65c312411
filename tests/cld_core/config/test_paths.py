"""Paths in recipes: where relative ones are taken from, and what is said about plug-ins that are missing."""

import pytest

from cld_core.config import anchored_overrides, load, with_overrides
from cld_core.config.plugins import with_plugin_found
from cld_core.errors import RecipeError
from tests.support.paths import RECIPES

KEYS = {
    "toy": ["data.plugin=mine.py", "eval.fid.plugin=extractors.py", "eval.fid.weights=w.pth", "eval.fid.stats=s.npz"],
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
    modules = ["data.plugin=my_package.toys", "eval.fid.plugin=extractors", "eval.fid.stats=/x/s.npz"]
    recipe = load(RECIPES / "toy.yaml", modules)
    assert recipe.anchored(tmp_path) is recipe
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


def test_a_plugin_may_lie_here_or_beside_the_recipe(tmp_path, monkeypatch):
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        folder.mkdir()
    monkeypatch.chdir(here)
    file = beside / "mine.yaml"
    file.write_text(f"extends: {RECIPES}/toy.yaml\ndata: {{name: ring, plugin: ring.py}}\n")
    with pytest.raises(RecipeError, match=r"mine\.yaml: 'data\.plugin' names ring\.py.*beside the recipe"):
        with_plugin_found(load(file), file)
    (beside / "ring.py").write_text("x = 1\n")
    assert with_plugin_found(load(file), file).data.plugin == str(beside / "ring.py")
    (here / "ring.py").write_text("x = 1\n")
    assert with_plugin_found(load(file), file).data.plugin == str(here / "ring.py")
    (here / "ring.py").write_text("x =\n")
    with pytest.raises(RecipeError, match=r"ring\.py, line 1: the plug-in is not Python"):
        with_plugin_found(load(file), file)


def test_a_module_must_be_installed():
    recipe = load(RECIPES / "toy.yaml", ["data.plugin=json.tool"])
    assert with_plugin_found(recipe, RECIPES / "toy.yaml") is recipe
    recipe = load(RECIPES / "toy.yaml", ["data.plugin=no_such_module_at_all"])
    with pytest.raises(RecipeError, match="no_such_module_at_all, which is not installed"):
        with_plugin_found(recipe, RECIPES / "toy.yaml")


@pytest.mark.parametrize(
    "plugin", ["__main__", "", ".", "..x", ".x", "a b", "builtins.", "no_such_module_", "x" * 3000]
)
def test_what_is_not_a_module_is_refused(plugin):
    with pytest.raises(RecipeError, match="not installed"):
        with_plugin_found(load(RECIPES / "toy.yaml", [f"data.plugin='{plugin}'"]), RECIPES / "toy.yaml")


@pytest.mark.parametrize("content", [b"\x00", b"(" * 5000, b"-" * 100_000 + b"1", b"\xff", b"# coding: nothing\n"])
def test_a_file_that_is_not_python_is_refused(tmp_path, content):
    (tmp_path / "ring.py").write_bytes(content)
    with pytest.raises(RecipeError, match="not Python"):
        with_plugin_found(load(RECIPES / "toy.yaml", ["data.plugin=ring.py"]), tmp_path / "mine.yaml")


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(RecipeError, match="no such file"):
        with_plugin_found(load(RECIPES / "toy.yaml", [f"data.plugin={'x' * 3000}.py"]), tmp_path / "mine.yaml")
    with pytest.raises(RecipeError, match="'path' cannot be '~nobody-is-called-so/x'"):
        load(RECIPES / "cifar10.yaml", ["data.path=~nobody-is-called-so/x"]).anchored(tmp_path)
