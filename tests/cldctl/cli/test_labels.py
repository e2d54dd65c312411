"""`cldctl sample` of class-conditional models, and what it refuses."""

import numpy as np
import pytest

from cld_core.classes import numbered
from cld_core.config import load
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.stop import StopFlag
from cld_core.train import session
from tests.support.images import make_images
from tests.support.paths import RECIPES
from tests.support.tools import ONE, invoke

FAST = ("--method", "exponential", "--nfe", "5", "-n", "18")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name, keys in {"modes": [], "always": ["objective.label_dropout=0"], "plain": ["data.labels=false"]}.items():
        run = RunFolder.create(root / name, load(RECIPES / "toy_labels.yaml", [*ONE, *keys]), {"created": 1.0})
        session.run(run, Ranks(), StopFlag(), job_id="test")
    return root


def test_samples_of_a_class_with_guidance(runs, tmp_path):
    out = tmp_path / "samples.npz"
    done = invoke("sample", "modes", "--label", "3", "--guidance", "1.5", *FAST, "-o", str(out), runs=runs)
    assert "18 samples of step 20, 10 network evaluations each (exponential)" in done.stderr
    content = np.load(out)
    assert content["label"].tolist() == [3] * 18
    assert content["nfe"].tolist() == [10] * 18
    invoke("sample", "modes", *FAST, "-o", str(out), runs=runs)
    assert np.load(out)["label"].tolist() == numbered([1] * 9).drawn(0, 18)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("modes", "--label", "9"), ["--label: label 9 is out of range: the labels are 0 to 8. Use one of them."]),
        (("plain", "--label", "3"), ["--label 3: plain was trained without labels (data.labels=false). Leave it out."]),
        (("always", "--guidance", "2"), ["is 2, but objective.label_dropout is 0", "Leave it at 1"]),
        (("modes", "--guidance", "-1"), ["error: --guidance cannot be -1.0; expected a number >= 0"]),
        (("modes", "sampling.guidance_from=0.9", "sampling.guidance_to=0.1"), ["guidance would never act"]),
    ],
)
def test_what_cannot_be_sampled_is_said_in_a_line(runs, arguments, words):
    done = invoke("sample", *arguments, *FAST, runs=runs, code=2)
    assert all(word in done.stderr for word in words), done.stderr


def test_labels_are_looked_for_before_a_job_starts(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    settings = ("data.size=8", "network.image_size=8", "network.attention=[4]", "data.labels=true")
    arguments = (f"data.path={make_images(tmp_path / 'set')}", "--cluster", "debug")
    done = invoke("submit", "cifar10_smoke", *settings, *arguments, runs=runs, code=2)
    assert "has no labels, which data.labels=true needs" in done.stderr
    toy = invoke("submit", "toy", "data.name=gaussian", "data.labels=true", "--dry-run", runs=runs, code=2)
    assert "'data.labels' cannot be true with data.name=gaussian" in toy.stderr
