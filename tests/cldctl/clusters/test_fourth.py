"""A cluster that is one file and one line of the registry (`spool`), under the real commands."""

import pytest

from cld_core.run import RunFolder
from cldctl.clusters import CLUSTERS
from tests.support.paths import ROOT
from tests.support.tools import ONE, invoke, status, wait_ended, wait_for, wait_step

# Of the picture that goes with an evaluation.
QUICK = ("sampling.method=em", "sampling.nfe=2")


@pytest.fixture
def runs(fresh_runs, monkeypatch):
    monkeypatch.setitem(CLUSTERS, "spool", "tests.cldctl.clusters.spool:SpoolCluster")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return fresh_runs


def evaluated(runs, name, number):
    def finished():
        evals = status(runs, name)["evals"]
        return len(evals) > number and evals[number]["state"] == "FINISHED" and evals[number]

    return wait_for(finished)


@pytest.mark.slow
def test_a_run_is_submitted_evaluated_cancelled_and_resumed(runs):
    done = invoke("submit", "toy", *ONE, *QUICK, "--name", "mine", "--cluster", "spool", "--eval", "elbo", runs=runs)
    assert done.stdout == "mine\n"
    assert "(spool)" in done.stderr
    row = wait_ended(runs, "mine")
    assert (row["state"], row["cluster"], row["step"]) == ("FINISHED", "spool", 20)
    assert row["job_id"].startswith("mine-")
    assert evaluated(runs, "mine", 0)["nll"] is not None, "the chained evaluation waited for the training"
    assert "step 20/20" in invoke("logs", "mine", runs=runs).stdout

    again = invoke("eval", "mine", "--elbo", "--shards", "3", "eval.seed=4", "--follow", runs=runs)
    assert "(spool)" in again.stderr, "the run's own cluster"
    assert "3/3" in again.stdout
    name = evaluated(runs, "mine", 1)["id"]
    jobs = RunFolder(runs / "mine").evals / name / "jobs.jsonl"
    assert len(jobs.read_text().splitlines()) == 2, "three shards, two tasks"
    assert "shard 1 of 3" in invoke("logs", "mine", "--eval", name, "--shard", "1", runs=runs).stdout

    invoke("resume", "mine", "train.steps=1000000", runs=runs)
    wait_step(RunFolder(runs / "mine"), 30)
    assert status(runs, "mine")["state"] == "RUNNING"
    assert "is running as job" in invoke("resume", "mine", runs=runs, code=2).stderr
    assert "mine: cancelled; last checkpoint: step" in invoke("cancel", "mine", runs=runs).stderr
    row = status(runs, "mine")
    assert (row["state"], row["attempts"][1]["cause"]) == ("CANCELLED", "cancelled")

    step = row["checkpoint_step"]
    invoke("resume", "mine", f"train.steps={step + 20}", "--follow", runs=runs)
    row = status(runs, "mine")
    assert (row["state"], row["step"], row["attempts"][2]["first_step"]) == ("FINISHED", step + 20, step)


def test_what_it_cannot_run_is_refused_before_anything_is_written(runs):
    wide = ("--cluster", "spool", "cluster.tasks_per_node=2")
    assert "Set it to 1" in invoke("submit", "toy", *wide, runs=runs, code=2).stderr
    assert not runs.exists()
    assert "# spool: 1 process" in invoke("submit", "toy", "--cluster", "spool", "--dry-run", runs=runs).stdout
    unknown = invoke("submit", "toy", "--cluster", "sp", runs=runs, code=2)
    assert "expected one of slurm, local, debug, spool" in unknown.stderr
