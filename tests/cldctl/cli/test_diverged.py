"""Samples that are not finite, as people meet them: from the network's weights to tables, pages and exit codes."""

import json

import numpy as np
import pytest
from PIL import Image

from cld_core.evaluate.features import FeatureRows
from cld_core.evaluate.request import EvalRequest
from cld_core.evaluate.statistics import Statistics, StatsRequest
from cld_core.ranks import Ranks
from cld_core.stop import StopFlag
from cld_core.train import session
from tests.support.extractor import TINY
from tests.support.images import make_images, run_folder
from tests.support.made_up import report, run_with
from tests.support.spoiled import spoil
from tests.support.tools import DEBUG, invoke, status

STEP = 2
QUICK = ("sampling.method=em", "sampling.nfe=3")
SAID = "3 of 50,000 samples are not finite"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on 8x8 images and the statistics of its training set."""
    runs = tmp_path_factory.mktemp("runs")
    settings = (*TINY, *QUICK, "eval.samples=20", f"train.steps={STEP}")
    run = run_folder(runs, make_images(runs.parent / f"{runs.name}-set"), *settings)
    session.run(run, Ranks(), StopFlag(), job_id="test")
    assert Statistics(StatsRequest.of(run.recipe(), None, features=False, shards=1).save()).compute(Ranks())
    return run


def test_too_many_fail_and_more_may_be_allowed_without_drawing_again(trained, monkeypatch):
    runs, drawn, compute = trained.path.parent, [], FeatureRows.compute
    monkeypatch.setattr(FeatureRows, "compute", lambda self, *given: drawn.append(given) or compute(self, *given))
    spoil(monkeypatch, [1, 2, 12])
    asked = ("eval", "run", "--fid", "eval.seed=1", "--shards", "2", *DEBUG)
    failed = invoke(*asked, runs=runs, code=1)
    assert "2 of 10 samples are not finite, a fraction of 0.1 of the 20 asked for" in failed.stderr
    assert failed.stderr.count("eval.max_nonfinite higher") == 1
    assert not list(trained.evals.glob("*/report.json"))
    (stopped,) = status(runs, "run")["evals"]
    assert (stopped["state"], stopped["fid"]) == ("STOPPED", None)
    done = invoke(*asked, "eval.max_nonfinite=0.2", runs=runs)
    assert "3 of 20 samples are not finite" in done.stderr
    assert "FINISHED" in done.stdout
    assert drawn == [(0, 10), (10, 20)]
    (entry,) = status(runs, "run")["evals"]
    assert entry["remarks"] == ["3 of 20 samples are not finite"]


def test_pictures_and_arrays_of_such_samples_come_with_a_warning(trained, tmp_path, monkeypatch):
    spoil(monkeypatch, [0, 1, 4])
    runs = trained.path.parent
    for name in ("grid.png", "arrays.npz"):
        done = invoke("sample", "run", "-n", "5", "-o", str(tmp_path / name), runs=runs)
        assert "3 of 5 samples are not finite" in done.stderr.splitlines()
    assert "5 samples (3 not finite), em, 3 NFE" in Image.open(tmp_path / "grid.png").info["Description"]
    with np.load(tmp_path / "arrays.npz") as arrays:
        assert np.isnan(arrays["x"][[0, 1, 4], -1, -1, -1]).all()
        assert arrays["images"][[0, 1, 4], -1, -1, -1].tolist() == [0, 0, 0]


def test_status_page_and_comparison_say_it(tmp_path):
    fid, bad = {"value": 3.0, "samples": 50_000}, {"nonfinite": 3}
    for name, more in (("good", {"nonfinite": 0}), ("bad", bad), ("old", {})):
        run = run_with(tmp_path / name, 10)
        report(run, EvalRequest.of(run.recipe(), ("elbo",), 10), elbo={"nll": 1.0}, fid=fid | more)
    for name, count in (("good", 0), ("bad", 1), ("old", 0)):
        assert invoke("status", name, runs=tmp_path).stdout.count(SAID) == count
        invoke("report", name, "-o", str(tmp_path / "page.html"), runs=tmp_path)
        assert (tmp_path / "page.html").read_text().count(SAID) == count
    compared = ("eval", "--compare", "good", "bad", "old")
    assert invoke(*compared, runs=tmp_path).stderr.splitlines().count(f"bad: {SAID}") == 1
    assert f"bad: {SAID}" in json.loads(invoke(*compared, "--json", runs=tmp_path).stdout)["warnings"]
