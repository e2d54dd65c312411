"""The recipe as a difference to the shipped one."""

from cldctl.page import recipe
from tests.support.made_up import run_with
from tests.support.reported import everything


def test_only_what_differs_is_listed(tmp_path):
    shown = recipe.shown(everything(tmp_path / "mine", points=2))
    assert (shown.base, shown.summary) == ("toy", "2 keys differ from the shipped recipe toy")
    assert shown.differences.rows == [["optim.lr", "0.002", "0.001"], ["train.steps", "8000", "800000"]]
    assert "batch_size: 512" in shown.text


def test_a_recipe_of_another_name_is_compared_with_the_nearest_shipped_one(tmp_path):
    run = run_with(tmp_path / "mine", 10, overrides=("name=my_own", "data.name=diamond"))
    shown = recipe.shown(run)
    assert (shown.base, shown.differences, shown.summary) == (
        *("toy_diamond", None, "No key differs from the shipped recipe toy_diamond"),
    )


def test_a_recipe_that_cannot_be_read_says_so(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    run.recipe_file.write_text("train: {stepz: 1}")
    shown = recipe.shown(run)
    assert (shown.base, shown.summary) == (None, "The recipe cannot be read")
    assert "stepz" in shown.text
