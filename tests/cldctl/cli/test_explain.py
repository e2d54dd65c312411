"""`explain`, `render --comments`, `recipes`, and what a dry run says first."""

import re

import pytest

from cld_core.config import load
from tests.support.paths import RECIPES
from tests.support.tools import invoke


def test_a_key(tmp_path):
    lines = invoke("explain", "train.ema", runs=tmp_path).stdout.splitlines()
    assert lines[0] == "train.ema: decay of the moving average of the weights"
    assert lines[1].split(maxsplit=1) == ["expects", "a number >= 0 and < 1"]
    assert lines[2].split() == ["default", "0.999"]
    assert any(line.split()[-1] == "cifar10_smoke" and "0.99 in" in line for line in lines)


def test_a_key_of_some_variants(tmp_path):
    shown = invoke("explain", "sampling.nfe", runs=tmp_path).stdout
    assert "only with  sampling.method=em, sscs, exponential, gddim" in shown
    shown = invoke("explain", "sde.beta0", runs=tmp_path).stdout
    assert "4.0  (cld, hold)" in shown
    assert "0.1  (vpsde)" in shown


def test_sections_and_variants(tmp_path):
    shown = invoke("explain", runs=tmp_path).stdout
    for section in ("data", "train", "sampling", "cluster", "hooks"):
        assert any(line.startswith(section) for line in shown.splitlines())
    shown = invoke("explain", "train", runs=tmp_path).stdout
    for key in ("train.steps", "train.ema", "800000"):
        assert key in shown
    shown = invoke("explain", "sampling", runs=tmp_path).stdout
    assert "sampling.method=sscs: symmetric splitting" in shown
    assert "relative tolerance of the adaptive solver (ode)" in shown
    assert "eval.elbo" in invoke("explain", "eval", runs=tmp_path).stdout
    shown = invoke("explain", "sde.cld", runs=tmp_path).stdout
    assert shown.startswith("sde.cld: critically-damped Langevin diffusion (sde.name=cld)")
    assert "sde.m_inv" in shown


@pytest.mark.parametrize(("word", "close"), [("train.emma", "train.ema"), ("optm", "optim"), ("nfe", "sampling.nfe")])
def test_a_typo(tmp_path, word, close):
    done = invoke("explain", word, runs=tmp_path, code=2)
    assert f"Did you mean '{close}'?" in done.stderr
    assert done.stdout == ""


def test_render_with_comments(tmp_path):
    done = invoke("render", "toy", "train.steps=5", "--comments", runs=tmp_path)
    (tmp_path / "toy.yaml").write_text(done.stdout)
    assert load(tmp_path / "toy.yaml") == load(RECIPES / "toy.yaml", ["train.steps=5"])
    assert "# total number of optimiser steps" in done.stdout
    assert "#" not in invoke("render", "toy", runs=tmp_path).stdout


def test_a_dry_run_says_first_what_differs(tmp_path):
    local = ("--cluster", "local", "--dry-run", "--name", "x")
    done = invoke("submit", "toy_demo", "train.steps=5", *local, "--eval", "elbo", runs=tmp_path)
    assert "# evaluation elbo-00000005-" in done.stdout
    assert "cldctl.clusters.entry" in done.stdout
    lines = done.stdout.splitlines()
    assert re.match(r"# \d+ keys? differs? from .*:$", lines[0])
    head = done.stdout.split(f"# run: {tmp_path / 'x'}\n")[0]
    assert "#   train.steps: 5 instead of 800000  (command line)" in head
    assert "#   objective.mixed_score: true instead of false  (" in head
    assert "toy_demo.yaml, line 8)" in head
    assert all(line.startswith("#") for line in head.splitlines())
    assert "# same as toy\n" in invoke("submit", "toy", *local, runs=tmp_path).stdout
    assert list(tmp_path.iterdir()) == []
