"""`cldctl init`: from data to a recipe that trains."""

import numpy as np
import pytest
from PIL import Image

from cld_core.config import load
from tests.support.tools import ONE, invoke

ROWS = np.random.default_rng(0).standard_normal((150, 5))


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", ROWS)


def test_a_recipe_for_a_file_trains_without_a_further_key(tmp_path, monkeypatch):
    said = invoke("init rows.npy -o mine.yaml")
    assert said.stdout == "mine.yaml\n"
    assert "150 examples of shape (5,), float64, without labels: " in said.stderr
    assert said.stderr.endswith("next:\n  cldctl submit mine.yaml --follow\n")
    assert "cldctl init rows.npy --size s" in (tmp_path / "mine.yaml").read_text()
    recipe = load("mine.yaml")
    assert (recipe.data.name, recipe.network.name, recipe.data.scaling) == (
        "arrays",
        "mlp",
        "standard",
    )
    monkeypatch.chdir("/")
    submit = f"submit {tmp_path}/mine.yaml --name mine --cluster debug"
    invoke(submit, *ONE, runs=tmp_path / "runs")


@pytest.mark.parametrize(
    ("arrays", "words", "keys"),
    [
        ({"x": ROWS, "labels": np.arange(150) % 3}, "in 3 classes (0, 1, 2)", {"labels": True}),
        ({"x": ROWS, "labels": ROWS[:, 0]}, "warning: labels are left out: ", {"labels": False}),
        ({"x": ROWS[:20]}, "are few", {}),
        ({"x": ROWS[:, :, None].astype(np.float32)}, "1 in each channel", {}),
        ({"x": np.zeros((150, 1, 8, 8), np.uint8)}, "images of 256 grey levels", {}),
        (
            {"x": ROWS[:20, :1].repeat(3600, 1).reshape(20, 1, 45, 80)},
            "attends to 3,600 positions at once",
            {},
        ),
    ],
    ids=["labels", "values", "few", "curves", "images", "slow"],
)
def test_what_it_sees_is_said(arrays, words, keys):
    np.savez("it.npz", **arrays)
    said = invoke("init it.npz --size m")
    assert words in said.stderr
    made = load("it.yaml")
    assert {name: getattr(made.data, name) for name in keys} == keys
    assert not list(made.network.misfits(arrays["x"].shape[1:]))


def test_pictures_are_prepared_first(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (30, 20), (20 * number, 0, 0)).save(
                tmp_path / "photos" / name / f"{number}.png"
            )
    said = invoke("init photos --size l")
    assert "12 images of 20 x 20 pixels in 2 classes (cat, dog)" in said.stderr
    command, submit = said.stderr.partition("next:\n")[2].splitlines()
    assert submit == "  cldctl submit photos.yaml --follow"
    invoke(command.strip().removeprefix("cldctl "))
    recipe = load("photos.yaml")
    assert recipe.data.labels
    assert recipe.cluster.gpus_per_node == 1
    said = invoke(f"init {recipe.data.path} -o again.yaml --size l")
    assert said.stderr.endswith("next:\n  cldctl submit again.yaml --follow\n"), "they are prepared"
    again = load("again.yaml")
    assert (again.data, again.objective.data_std) == (recipe.data, 0.9), "dark pictures"


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        ("rows.npy -o rows.npy", "written as .yaml or .yml", 2),
        ("rows.npy --size xl", "--size xl: expected one of s, m, l", 2),
        ("rows.npy -o mine.yaml", "mine.yaml exists already", 2),
        ("empty", "has no pictures", 2),
        ("nan.npy", "not finite", 1),
        ("torn.npy", "torn.npy: there are 149 labels for 150 training examples", 1),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(tmp_path, words, message, code):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine.yaml").write_text("train: {steps: 1}\n")
    np.save("torn.npy", ROWS)
    np.save("torn_labels.npy", np.arange(149) % 3)
    np.save("nan.npy", np.where(ROWS > 0, np.nan, ROWS))
    assert message in invoke(f"init {words}", code=code).stderr
    assert [file.name for file in tmp_path.glob("*.yaml")] == ["mine.yaml"]
    assert load("mine.yaml").train.steps == 1
