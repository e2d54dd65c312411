"""From a file of numbers to samples, bounds and weights, by the commands that a page of the docs shows."""

import json

import numpy as np

import cld_core
from tests.support.tools import DEBUG, ONE, invoke


def test_from_a_file_to_samples_a_bound_and_weights(tmp_path):
    scale, shift, runs = np.array([1.0, 30.0, 0.1]), np.array([0.0, 7.0, -2.0]), tmp_path / "runs"
    data = tmp_path / "x.npy"
    np.save(data, np.random.default_rng(0).normal(size=(500, 3)) * scale + shift)
    quick = ("sampling={method: exponential, nfe: 6}", "eval={points: 9, elbo: {rtol: 0.01, atol: 0.01}}")
    mine = ("toy_demo", f"data={{name: arrays, path: {data}}}", *ONE, *quick)
    invoke("submit", *mine, "--name", "mine", *DEBUG, "--eval", "elbo,loss", runs=runs)
    (report,) = (runs / "mine" / "evals").glob("*/report.json")
    elbo = json.loads(report.read_text())["elbo"]
    assert (elbo["n"], elbo["unit"]) == (9, "nats")

    invoke("sample", "mine", "-n", "200", "-o", str(tmp_path / "s.npz"), runs=runs)
    assert (np.abs(np.load(tmp_path / "s.npz")["x"].mean(0) - shift) < scale).all()
    invoke("export", "mine", "-o", str(tmp_path / "m.safetensors"), "--card", str(tmp_path / "card"), runs=runs)
    card = (tmp_path / "card" / "README.md").read_text()
    assert "the arrays in x.npy, which the network sees scaled (standard)" in card

    np.save(data, np.load(data) + 1)
    more = ("resume", "mine", "train.steps=30", *DEBUG)
    assert "--other-data" in invoke(*more, runs=runs, code=2).stderr
    invoke(*more, "--other-data", runs=runs)
    data.unlink()
    assert cld_core.load(runs / "mine").form == cld_core.load(tmp_path / "m.safetensors").form
