"""An array of which one task is held and another one was cancelled."""

from __future__ import annotations

from pathlib import Path

from cld_core.evaluate.evaluation import Evaluation

from .cluster import SlurmCluster
from .lab import Lab


def test_only_what_nobody_computes_is_started(slurm: SlurmCluster, tmp_path: Path) -> None:
    lab = Lab(slurm, tmp_path / "runs")
    run = lab.submit("mine", "train.steps=100", "cluster.nodes=1")
    lab.ended("mine")
    asked = ("eval", "mine", "--loss", "--shards", "2", "eval.samples=64")
    lab.cldctl(*asked, "cluster.sbatch_args=[--hold]")
    work = Evaluation(run.evals / lab.status("mine")["evals"][0]["id"])
    first, second = (event.job.job_id for event in work.ledger.history().submitted)
    slurm.run(["scancel", second])
    lab.until("mine", "the held task", lambda row: row["evals"][0]["state"] == "PENDING")
    said = lab.cldctl(*asked).stderr
    assert f"evaluation {work.name} of mine, job" in said
    assert [event.shards for event in work.ledger.history().submitted] == [(0,), (1,), (1,)]
    lab.until("mine", "the second shard", lambda row: row["evals"][0]["shards_done"] == 1, 240)
    assert work.missing() == [0]
    slurm.run(["scontrol", "release", first])
    row = lab.until("mine", "a report", lambda row: row["evals"][0]["state"] == "FINISHED", 240)
    assert row["evals"][0]["shards_done"] == 2
