"""Recipes of runs that are older than a bound or a rule: they are read, and only what is typed has to keep to it."""

import json
import re
from pathlib import Path

import pytest

from cld_core.errors import RecipeError
from cld_core.recipe import Recipe, dump, from_dict, load, load_frozen, with_overrides
from tests.support.paths import RECIPES

TOY = RECIPES / "toy.yaml"
# What the file has, what an older one had in its place, what is typed to change it, and the key.
OLDER = [
    ("  container: null", "  container: ''", "cluster.container=null", "cluster.container"),
    ("  setup: []", "  setup: ['#SBATCH --mem=1']", "cluster.setup=[]", "cluster.setup"),
    ("  sbatch_args: []", "  sbatch_args: [\"--comment='my job'\"]", "cluster.sbatch_args=[]", "cluster.sbatch_args"),
    ("  nodes: 1", "  nodes: 200000", "cluster.nodes=1", "cluster.nodes"),
    ("  samples: 64", "  samples: 20000", "periodic.samples=64", "periodic.samples"),
    ("  elbo_points: 512", "  elbo_points: 2000000000", "periodic.elbo_points=512", "periodic.elbo_points"),
]


def written(folder: Path, before: str, after: str) -> Path:
    file, text = folder / "recipe.yaml", dump(load(TOY, ["train.batch_size=300000"]))
    assert text.count(before) == 1, text
    file.write_text(text.replace(before, after))
    return file


@pytest.mark.parametrize(("before", "after", "fix", "key"), OLDER)
def test_they_are_read_and_changed(tmp_path, before, after, fix, key):
    file = written(tmp_path, before, after)
    recipe = load_frozen(file)
    assert recipe == from_dict(recipe.to_dict(), "a file")
    assert recipe == from_dict(json.loads(json.dumps(recipe.to_dict())), "a file")
    assert with_overrides(recipe, ["train.steps=7"]).train.steps == 7
    assert value_of(with_overrides(recipe, [fix]), key) == value_of(load(TOY), key)
    assert recipe.anchored(tmp_path).cluster == recipe.cluster
    (tmp_path / "copy.yaml").write_text(dump(recipe))
    assert load_frozen(tmp_path / "copy.yaml") == recipe
    (tmp_path / "ledger.yaml").write_text(dump(load(TOY, ["train.batch_size=300000"])))
    typed = after.strip().replace(": ", "=", 1)
    in_the_ledger = load_frozen(tmp_path / "ledger.yaml", [f"{key.partition('.')[0]}.{typed}"])
    assert value_of(in_the_ledger, key) == value_of(recipe, key)


@pytest.mark.parametrize(("before", "after", "fix", "key"), OLDER)
def test_what_is_typed_keeps_to_them(tmp_path, before, after, fix, key):
    file = written(tmp_path, before, after)
    with pytest.raises(RecipeError, match=rf"recipe\.yaml, line \d+: '{re.escape(key)}' cannot be"):
        load(file)
    typed = after.strip().replace(": ", "=", 1)
    with pytest.raises(RecipeError, match=rf"command line: '{re.escape(key)}' cannot be"):
        with_overrides(load_frozen(file), [f"{key.partition('.')[0]}.{typed}"])


def test_what_protects_the_memory_of_whoever_reads_them_holds(tmp_path):
    for before, after in (("  width: 128", "  width: 9999999"), ("  layers: 5", "  layers: 9999999")):
        with pytest.raises(RecipeError, match="cannot be 9999999"):
            load_frozen(written(tmp_path, before, after))


def value_of(recipe: Recipe, key: str):
    section, name = key.split(".")
    return getattr(getattr(recipe, section), name)
