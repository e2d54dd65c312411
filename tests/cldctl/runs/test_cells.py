"""The cells of a sweep of trainings: their names, and what is refused before anything is written."""

import pytest

from cld_core.config import load
from cld_core.errors import UsageError
from cld_core.run import RunFolder
from cld_core.run.folder import is_name
from cld_core.run.groups import Group
from cldctl.runs import cells
from tests.support.paths import RECIPES

TOY = RECIPES / "toy.yaml"


def made(*sweep, overrides=()):
    return cells.cells_of("g", cells.axes_of(sweep), TOY, overrides, None)


def test_names_are_made_of_the_values_and_can_be_read():
    names = [cell.name for cell in made("train.seed=0,1", "optim.lr=1e-4,2e-4")]
    assert names == ["g-seed0-lr1e-4", "g-seed0-lr2e-4", "g-seed1-lr1e-4", "g-seed1-lr2e-4"]
    assert [cell.recipe.train.seed for cell in made("train.seed=3,7")] == [3, 7]
    assert cells.run_name("g", {"sde.name": "cld"}) == "g-name-cld"
    assert cells.run_name("g", {"sde.name": "cld", "optim.name": "adam"}) == "g-sde.name-cld-optim.name-adam"


def test_names_are_usable_and_unique_whatever_the_values():
    awkward = [{"data.path": "/a b/c"}, {"data.path": "/a b_c"}, {"data.path": "ü"}, {"data.path": "x" * 300}]
    awkward += [{"data.name": "a-y-b", "data.y": "c"}, {"data.name": "a", "data.y": "b-y-c"}, {"data.path": "y" * 300}]
    names = [cells.run_name("g" * cells.MAX_GROUP_NAME, values) for values in awkward]
    assert len(set(names)) == len(names)
    assert all(map(is_name, names))
    assert names == [cells.run_name("g" * cells.MAX_GROUP_NAME, values) for values in awkward], "each time the same"


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (["train.sed=0,1"], "Did you mean 'train.seed'"),
        (["train.seed=0,x"], r"at train.seed=x: .*expected a whole number"),
        (["cluster.nodes=1,2"], "'cluster.nodes': the jobs of a sweep are one array"),
        (["eval.seed=1,2"], "'eval.seed': it changes no training"),
        (["optim.lr=1e-4,0.0001"], "at optim.lr=0.0001: the recipe is the same as at optim.lr=1e-4"),
        ([f"train.seed={','.join(map(str, range(501)))}"], "501 runs are more than 500"),
    ],
)
def test_a_mistake_is_named(sweep, message):
    with pytest.raises(UsageError, match=message):
        made(*sweep)


def group_with(tmp_path, *overrides):
    """A group with one run, of seed 0."""
    group = Group(tmp_path, "g")
    group.add({"g-seed0": {"train.seed": "0"}})
    identity = {"created": 1.0, "group": "g", "sweep": {"train.seed": "0"}}
    RunFolder.create(tmp_path / "g-seed0", load(TOY, ["train.seed=0", *overrides]), identity)
    return group


def test_a_run_is_found_again_by_what_its_values_mean(tmp_path):
    group = Group(tmp_path, "g")
    group.add({"g-lr1e-4": {"optim.lr": "1e-4"}})
    identity = {"created": 1.0, "group": "g", "sweep": {"optim.lr": "1e-4"}}
    run = RunFolder.create(tmp_path / "g-lr1e-4", load(TOY, ["optim.lr=1e-4"]), identity)
    found = cells.existing(group, made("optim.lr=0.0001,2e-4"))
    assert {name: other.path for name, other in found.items()} == {"g-lr0.0001": run.path}


def test_a_run_that_was_submitted_otherwise_is_not_taken_for_the_cell(tmp_path):
    group = group_with(tmp_path, "train.steps=10", "cluster.time_min=9")
    with pytest.raises(UsageError, match=r"g-seed0 exists, and was submitted with train.steps=10\. Use another --name"):
        cells.existing(group, made("train.seed=0,1", overrides=["train.steps=20"]))
    assert cells.existing(group, made("train.seed=0", overrides=["train.steps=10"])), "the jobs may differ"


def test_a_run_of_another_group_or_none_keeps_its_name(tmp_path):
    RunFolder.create(tmp_path / "g-seed1", load(TOY), {"created": 1.0})
    with pytest.raises(UsageError, match=r"g-seed1: a run of this name exists, and is not part of the group g"):
        cells.existing(Group(tmp_path, "g"), made("train.seed=0,1"))
