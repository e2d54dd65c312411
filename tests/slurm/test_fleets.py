"""Evaluations of more shards than this user may have jobs in the queue."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cld_core.evaluate.evaluation import Evaluation
from cld_core.run import RunFolder

from .cluster import SlurmCluster
from .lab import Lab

SHARDS = 12
QUICK = ("eval.points=24", "sampling.method=em", "sampling.nfe=2")


@pytest.fixture
def limited(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Lab]:
    """A cluster that enforces limits of users and QOS; there are none before and after the test."""

    def restarted(**settings: bool) -> None:
        slurm.configure(**settings)
        slurm.kill_controller()
        slurm.start_controller()

    restarted(limits=True)
    yield Lab(slurm, tmp_path / "runs")
    slurm.cancel_all()
    slurm.run("sacctmgr -i modify user root set MaxSubmitJobs=-1")
    slurm.run("sacctmgr -i modify qos normal set MaxSubmitJobsPerUser=-1")
    restarted()


def test_shards_beyond_the_limits_of_the_user_share_tasks_and_complete(limited: Lab) -> None:
    """Slurm tells the limit of the association; that of the QOS only to those with jobs, else it is found by trying."""
    limited.submit("mine", "cluster.nodes=1", "train.steps=100", "cluster.successor=false")
    limited.ended("mine")
    limited.slurm.wait_idle()
    limited.slurm.run("sacctmgr -i modify user root set MaxSubmitJobs=8")
    limited.slurm.run("sacctmgr -i modify qos normal set MaxSubmitJobsPerUser=5")
    said = limited.cldctl("eval", "mine", "--loss", "--shards", str(SHARDS), *QUICK).stderr
    tried, told = (
        r"4 tasks: slurm refuses 8 \(QOSMaxSubmitJobPerUserLimit\)",
        r"5 tasks: .*MaxSubmitJobsPU of QOS normal",
    )
    assert re.search(rf"{SHARDS} shards in ({tried}|{told})", said), said

    def computed() -> list[Evaluation]:
        works = [Evaluation(file.parent) for file in RunFolder(limited.runs / "mine").evals.glob("*/request.json")]
        return [work for work in works if work.is_done]

    limited.until("mine", "a report", lambda row: computed(), 120)
    (work,) = computed()
    jobs = work.ledger.history().jobs
    assert len(jobs) in (4, 5)
    assert sorted(shard for event in jobs for shard in event.shards or ()) == list(range(SHARDS))
    limited.slurm.wait_idle()
