"""`cldctl sample` of class-conditional models, and what it refuses."""

import numpy as np

from tests.support.tools import ONE, invoke, trained

FAST = ("--method", "exponential", "--nfe", "5", "-n", "18")


def test_samples_of_a_class_with_guidance(tmp_path):
    trained(tmp_path / "modes", "toy_labels", *ONE)
    out = tmp_path / "samples.npz"
    done = invoke("sample", "modes", "--label", "3", "--guidance", "1.5", *FAST, "-o", str(out), runs=tmp_path)
    assert "18 samples of step 20, 10 network evaluations each (exponential)" in done.stderr
    content = np.load(out)
    assert content["label"].tolist() == [3] * 18
    assert content["x"].shape == content["v"].shape == (18, 2)


QUICK = ("--method", "exponential", "--nfe", "4")


def test_points_given_a_coordinate(tmp_path):
    run = trained(tmp_path / "toy", "toy_diamond", *ONE, "train.steps=4", "periodic.samples_every=null")
    asked = ("sample", str(run.path), "-n", "30", *QUICK, "--observe")
    done = invoke(*asked, "x=0.3", runs=tmp_path)
    assert "given the observation, by gradient: y - H x is" in done.stderr
    assert "exponential_nfe4_n30_given-" in done.stdout
    assert invoke(*asked, "x=0.3", "--gradient-scale", "2", runs=tmp_path).stdout != done.stdout
    invoke(*asked, "y=-0.5", "-o", str(tmp_path / "x.npz"), "--how", "replacement", runs=tmp_path)
    assert np.load(tmp_path / "x.npz")["x"][:, 1].tolist() == [-0.5] * 30
    again = invoke(*asked, "x=0.3", "--how", "replacement", "sampling.repeats=3", "sampling.jump=2", runs=tmp_path)
    assert "10 network evaluations each" in again.stderr, "three steps three times, and the last one"
    asked = ("sample", str(run.path), "--observe", "x=0.3", "--how", "replacement", "--method", "ode")
    refused = invoke(*asked, runs=tmp_path, code=2).stderr
    assert "replacement needs fixed ones" in refused
    assert "loading" not in refused
