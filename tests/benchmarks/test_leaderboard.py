"""The judge of class-conditional models, and the rows and tables of docs/results.md."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import judge, leaderboard
from benchmarks.judge import Images
from tests.support.images import store_images

COUNTS = {"train": 96, "validation": 48}
# A row of milliseconds.
TINY = ("network={channels: 8, patch: 1, attention: null}", "train.batch_size=4", "sampling.nfe=2")
COARSE = ("eval.elbo.rtol=1.0", "eval.elbo.atol=1.0")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Grey images of 8 x 8 pixels in three classes: dark, medium and bright, with some noise."""
    labels = {split: [*range(3)] * (count // 3) for split, count in COUNTS.items()}
    images = {
        split: np.random.default_rng(len(its)).integers(0, 50, (len(its), 1, 8, 8), dtype=np.uint8)
        + np.reshape(100 * np.array(its, np.uint8), (-1, 1, 1, 1))
        for split, its in labels.items()
    }
    root = tmp_path_factory.mktemp("data") / "set"
    return store_images(
        root, images, name="idx", labels=labels, classes=("dark", "medium", "bright")
    )


@pytest.fixture(scope="module")
def net(data):
    return judge.trained(data, epochs=40, say=lambda text: None)


def test_the_judge_knows_the_classes_of_images_that_it_has_not_seen(data, net):
    test = Images.of(data, "validation")
    features, _ = judge.seen(net, test.pixels)
    right = judge.verdict(net, test, features)
    assert (right.accuracy, right.by_class, right.fid) == (1, (1, 1, 1), pytest.approx(0, abs=1e-3))
    wrong = judge.verdict(net, Images(test.pixels, torch.zeros_like(test.labels)), features)
    assert wrong.accuracy == pytest.approx(1 / 3)
    dark = judge.verdict(net, test[slice(0, None, 3)], features)
    assert dark.by_class == (1,)
    assert dark.fid > 10 * max(it.fid for it in judge.references(net, data, 48).values())


def test_the_judge_is_the_same_again(data, net, tmp_path):
    (data / judge.FILE).rename(tmp_path / judge.FILE)
    again = judge.trained(data, epochs=40, say=lambda text: None)
    kept = judge.loaded(tmp_path / judge.FILE)
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, kept.state_dict()[name]), name


def test_its_features_are_an_extractor(data, net):
    made = judge.Judge("judge", ["scores", "features"], str(data / judge.FILE))
    grey = Images.of(data, "validation").pixels
    scores, features = made(grey.expand(-1, 3, -1, -1))
    assert (scores.argmax(1) == judge.seen(net, grey)[1]).all()
    assert torch.equal(features, judge.seen(net, grey)[0])


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["leaderboard", *map(str, words)])
    leaderboard.main()


def test_a_row_from_training_to_the_table(data, net, tmp_path, monkeypatch, capfd):
    places = ("--results", tmp_path / "results", "--runs-dir", tmp_path / "runs", "--data", data)
    page = shutil.copy(leaderboard.ROOT / "docs" / "results.md", tmp_path)
    run(monkeypatch, "--table", *places)
    assert capfd.readouterr().out == "No results yet.\n"
    monkeypatch.setattr(
        leaderboard,
        "seconds_per_step",
        lambda recipes: dict.fromkeys(recipes, 0.02) | {"hold": 0.03},
    )
    monkeypatch.setattr(leaderboard, "_MINUTES", 0.001)
    row = (
        "--row",
        "psld",
        "--settings",
        "published",
        "--samples",
        12,
        "--threads",
        1,
        "--points",
        2,
    )
    run(monkeypatch, *row, *TINY, *COARSE, *places)
    row = json.loads((tmp_path / "results" / "psld-published-seed0.json").read_text())
    assert (row["steps"], row["batch_size"], row["n"]) == (2, 4, 12)
    assert row["bpd"] > 0

    other = {**row, "seed": 1, "fid": row["fid"] + 2, "bpd": row["bpd"] + 1}
    (tmp_path / "results" / "psld-published-seed1.json").write_text(json.dumps(other))
    of_gddim = {str(nfe): {"fid": 2.0, "accuracy": 0.5} for nfe in leaderboard.NFE}
    of_tuned = {"5": {"fid": 1.5, "accuracy": 0.875}}
    compared = {name: row[name] for name in ("row", "settings", "seed", "n")}
    compared["samplers"] = {"gddim": of_gddim, "tuned": of_tuned}
    (tmp_path / "results" / "psld-published-seed0-samplers.json").write_text(json.dumps(compared))
    monkeypatch.setattr(leaderboard, "_TRIAL_STEPS", 2)
    monkeypatch.setattr(leaderboard, "_TRIAL", {"seed": 3, "samples": 12, "points": 2})
    some = {"published": (), "levels": leaderboard.SETTINGS["psld"]["levels"]}
    monkeypatch.setitem(leaderboard.SETTINGS, "psld", some)
    run(monkeypatch, "--row", "psld", "--trials", "--threads", 1, *TINY, *COARSE, *places)
    trials = json.loads((tmp_path / "results" / "trials-psld.json").read_text())
    assert list(trials) == list(some)

    (tmp_path / "images").mkdir()
    run(monkeypatch, "--table", "--page", page, *places)
    shown = Path(page).read_text()
    assert (
        f"| psld | published | 2 | {row['fid'] + 1:.2f} ± 1.41 | {row['bpd'] + 0.5:.3f} ± 0.707 |"
        in shown
    )
    assert "| psld | published | 12 | 1.50 (tuned) | 2.00 (gddim) |" in shown
    assert (tmp_path / "images" / "leaderboard.png").stat().st_size > 1000
    assert f"| psld | levels | {trials['levels']['fid']:.2f} |" in shown
    assert "Training: 2 steps of 4 images" in shown

    monkeypatch.setitem(leaderboard.BEST, "psld", "published")
    run(monkeypatch, "--nearest", tmp_path / "nearest.png", *places)
    assert (tmp_path / "nearest.png").stat().st_size > 1000


def test_steps_of_all_rows_are_timed_in_turn(data, monkeypatch):
    monkeypatch.setattr(leaderboard, "_MEASURED", 2)
    recipes = {
        row: leaderboard.load(leaderboard.RECIPE, [f"data.path={data}", *TINY])
        for row in ("first", "second")
    }
    clock = iter([*range(4 * leaderboard._WARM), 0, 1, 1, 9, 9, 12, 12, 22])
    assert leaderboard.seconds_per_step(recipes, lambda: next(clock)) == {"first": 2, "second": 9}


@pytest.mark.parametrize("name", leaderboard.ROWS)
def test_a_row_has_a_published_diffusion_and_as_many_trials_as_any(name):
    diffusion = {"cld": "cifar10", "psld": "cifar10_psld", "hold": "cifar10_hold"}
    published = leaderboard.ROOT / "recipes" / f"{diffusion.get(name, 'cifar10_vpsde')}.yaml"
    expected = leaderboard.load(published, ()).sde
    trials = leaderboard.SETTINGS[name].values()
    assert len(trials) == 6
    for settings in trials:
        recipe = leaderboard.load(leaderboard.RECIPE, [*leaderboard.ROWS[name], *settings])
        assert recipe.sde == expected
