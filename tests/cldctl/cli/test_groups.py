"""Sweeps of trainings as they are typed."""

import json

from cld_core.config import load
from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cldctl.show import console
from cldctl.show import runs as shown_runs
from tests.support.made_up import TOY, run_with, seeds
from tests.support.tools import DEBUG, ONE, invoke, status

# Of the picture that goes with an evaluation.
QUICK = ("sampling.method=em", "sampling.nfe=2")
SWEEP = ("submit", "toy", *ONE, *QUICK, "--sweep", "train.seed=0,1", "--name", "mine")


def test_a_sweep_is_previewed_without_writing(tmp_path):
    runs = tmp_path / "runs"
    done = invoke(*SWEEP, "--cluster", "local", "--dry-run", "--eval", "elbo", "--parallel", "2", runs=runs)
    assert "train.steps: 20 instead of 800000  (command line)" in done.stdout
    assert "mine-seed0  train.seed=0  new" in done.stdout
    assert "# local: 2 process(es)" in done.stdout
    assert "an evaluation (elbo) of each run" in done.stdout
    assert not runs.exists()


def test_a_group_is_trained_here_shown_and_left_alone_once_it_is_finished(fresh_runs, monkeypatch):
    done = invoke(*SWEEP, *DEBUG, runs=fresh_runs)
    assert done.stdout.startswith("mine\n")
    assert "2 runs of the group mine: 2 new" in done.stderr
    names = ["mine-seed0", "mine-seed1"]
    assert [status(fresh_runs, name)["state"] for name in names] == ["FINISHED"] * 2
    assert "mine-seed1" in invoke("status", runs=fresh_runs).stdout, "whoever reads it with a program gets every run"
    monkeypatch.setattr(console, "out", console.PlainConsole(force_terminal=True, no_color=True))
    monkeypatch.setattr(shown_runs, "out", console.out)
    (line,) = (line.split() for line in invoke("status", runs=fresh_runs).stdout.splitlines() if "mine" in line)
    assert line == ["mine", "2", "2", "FINISHED", "100%"]
    for options in (["--all"], ["--group", "mine"], ["--state", "FINISHED"]):
        assert "mine-seed1" in invoke("status", *options, runs=fresh_runs).stdout
    monkeypatch.undo()
    rows = json.loads(invoke("status", "mine", "--json", runs=fresh_runs).stdout)
    assert [(row["group"], row["sweep"]) for row in rows] == [("mine", {"train.seed": str(k)}) for k in (0, 1)]
    again = invoke(*SWEEP, *DEBUG, runs=fresh_runs)
    assert "2 runs of the group mine: 2 finished already" in again.stderr
    assert "mine-seed0: nothing is running (finished)" in invoke("cancel", "mine", runs=fresh_runs).stderr
    assert "is finished at step 20" in invoke("resume", "mine", "train.steps=20", runs=fresh_runs, code=2).stderr


def test_a_run_of_the_same_name_as_a_group_is_meant(tmp_path):
    identity = {"created": 1.0, "group": "mine", "sweep": {"train.seed": "0"}}
    RunFolder.create(tmp_path / "mine-seed0", load(TOY), identity)
    Group(tmp_path, "mine").add({"mine-seed0": {"train.seed": "0"}})
    assert "mine-seed0" in invoke("status", "mine", "--json", runs=tmp_path).stdout
    run_with(tmp_path / "mine", 10)
    done = invoke("status", "mine", "--json", runs=tmp_path)
    assert [row["name"] for row in json.loads(done.stdout)] == ["mine"]
    assert "mine names a run and a group; the run is meant" in done.stderr


def test_a_group_is_noted_and_removed_by_its_name(tmp_path):
    seeds(tmp_path, "mine", 2, 10, infix="-seed")
    invoke("note", "mine", "for the paper", "--tag", "paper", runs=tmp_path)
    assert [run.ledger.history().note for run in Group(tmp_path, "mine").runs()] == ["for the paper"] * 2
    refused = invoke("why", "mine", runs=tmp_path, code=2).stderr
    assert "'mine' is a group of 2 runs: mine-seed0, mine-seed1. Name one of them." in refused
    removed = invoke("rm", "mine", "--yes", runs=tmp_path).stderr
    assert removed.count("removed mine-seed") == 2
    assert not (tmp_path / ".groups" / "mine").exists()
