"""`cldctl sample` of class-conditional models, and what it refuses."""

import json
import shutil

import numpy as np
import pytest

from cld_core.classes import numbered
from cld_core.evaluation.evaluation import evaluations_of
from cld_core.ranks import Ranks
from cld_core.recipe import load
from cld_core.run import RunFolder
from cld_core.stop import StopFlag
from cld_core.train import session
from tests.support.images import labelled_images, make_images, run_folder
from tests.support.paths import RECIPES
from tests.support.tools import DEBUG, ONE, invoke

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


def test_a_sweep_over_guidance_holds_each_class_against_its_law(runs, tmp_path):
    shutil.copytree(runs / "modes", tmp_path / "modes")
    settings = ("--samples", "45", "sampling.method=exponential", "sampling.nfe=3", *DEBUG)
    done = invoke("eval", "modes", "--class-law", "--sweep", "sampling.guidance=1,1.5,3", *settings, runs=tmp_path)
    assert "by sampling.guidance" in done.stdout
    assert "log-density given the label" in done.stdout
    works = {work.request.sampling.guidance: work for work in evaluations_of(RunFolder(tmp_path / "modes"))}
    assert set(works) == {1.0, 1.5, 3.0}
    sections = {scale: work.report["class-law"] for scale, work in works.items()}
    assert {scale: section["nfe_mean"] for scale, section in sections.items()} == {1.0: 3.0, 1.5: 6.0, 3.0: 6.0}
    assert len({section["w2"] for section in sections.values()}) == 3
    assert all(list(section["classes"]) == list(map(str, range(9))) for section in sections.values())
    (row,) = json.loads(invoke("status", "modes", "--json", runs=tmp_path).stdout)
    shown = {entry["results"]["class_w2"]["value"] for entry in row["evals"]}
    assert shown == {section["w2"] for section in sections.values()}
    invoke("report", "modes", "-o", str(tmp_path / "page.html"), runs=tmp_path)
    assert "Results by sampling.guidance" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("modes", "--label", "9"), ["--label: label 9 is out of range: the labels are 0 to 8. Use one of them."]),
        (("modes", "--label", "cat"), ["--label: there is no class 'cat': the labels are 0 to 8. Use one of them."]),
        (("plain", "--label", "3"), ["--label 3: plain was trained without labels (data.labels=false). Leave it out."]),
        (("plain", "--guidance", "2"), ["error: --guidance is 2, but the model has no labels: data.labels is false"]),
        (("always", "--guidance", "2"), ["is 2, but objective.label_dropout is 0", "Leave it at 1"]),
        (("modes", "--guidance", "-1"), ["error: --guidance cannot be -1.0; expected a number >= 0"]),
        (("modes", "--label", "-1"), ["--label: label -1 is out of range: the labels are 0 to 8. Use one of them."]),
        (("modes", "--guidance", "2", "sampling.guidance=3"), ["--guidance", "sampling.guidance"]),
        (("modes", "sampling.guidance_from=0.9", "sampling.guidance_to=0.1"), ["guidance would never act"]),
    ],
)
def test_what_cannot_be_sampled_is_said_in_a_line(runs, arguments, words):
    done = invoke("sample", *arguments, *FAST, runs=runs, code=2)
    assert all(word in done.stderr for word in words), done.stderr


def test_a_grid_of_images_has_a_class_in_each_row(tmp_path):
    data = labelled_images(tmp_path / "set", {"train": 20, "validation": 40})
    run = run_folder(tmp_path, data, "data.labels=true", "train.steps=4")
    session.run(run, Ranks(), StopFlag(), job_id="test")
    method = ("--method", "exponential", "--nfe", "3", "-n", "9")
    done = invoke("sample", "run", *method, runs=tmp_path)
    assert done.stdout.strip().endswith("n9_grid-quadratic.png")
    one = invoke("sample", "run", "--label", "odd", *method, "-o", str(tmp_path / "odd.npz"), runs=tmp_path)
    assert np.load(one.stdout.strip())["label"].tolist() == [1] * 9
    wrong = invoke("sample", "run", "--label", "odt", *method, runs=tmp_path, code=2)
    assert "there is no class 'odt': the labels are 0 to 2 (even, odd, rest). Did you mean 'odd'?" in wrong.stderr


def test_labels_are_looked_for_before_a_job_starts(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    settings = ("data.size=8", "network.image_size=8", "network.attention=[4]", "data.labels=true")
    arguments = (f"data.path={make_images(tmp_path / 'set')}", "--cluster", "debug")
    done = invoke("submit", "cifar10_smoke", *settings, *arguments, runs=runs, code=2)
    assert "has no labels, which data.labels=true needs" in done.stderr
    toy = invoke("submit", "toy", "data.name=gaussian", "data.labels=true", "--dry-run", runs=runs, code=2)
    assert "'data.labels' cannot be true with data.name=gaussian" in toy.stderr
