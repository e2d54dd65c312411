"""Evaluations of more shards than this user may have jobs in the queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cld_core.evaluation import slim
from cld_core.evaluation.evaluation import Evaluation
from cld_core.run import RunFolder

from .cluster import SlurmCluster
from .lab import Lab

SHARDS = 12
QUICK = ("eval.points=48", "sampling.method=em", "sampling.nfe=2")


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
    """The limit of a QOS, which Slurm does not show to those without jobs, is found by trying."""
    limited.submit("mine", "train.steps=100", "cluster.successor=false")
    limited.ended("mine")
    limited.slurm.wait_idle()
    for seed, limit, most in (
        (1, "user root set MaxSubmitJobs=5", 5),
        (2, "qos normal set MaxSubmitJobsPerUser=3", 3),
    ):
        limited.slurm.run(f"sacctmgr -i modify {limit}")
        settings = ("--loss", "--shards", str(SHARDS), f"eval.seed={seed}", *QUICK)
        said = limited.cldctl("eval", "mine", *settings).stderr
        assert f"{SHARDS} shards in " in said

        def computed(seed: int = seed) -> list[Evaluation]:
            works = [Evaluation(file.parent) for file in RunFolder(limited.runs / "mine").evals.glob("*/request.json")]
            return [work for work in works if work.request.seed == seed and work.is_done]

        limited.until("mine", "a report", lambda row: computed(), 120)
        (work,) = computed()
        jobs = work.ledger.history().jobs
        assert 1 < len(jobs) <= most
        assert sorted(shard for event in jobs for shard in event.shards or ()) == list(range(SHARDS))
        logs = "".join(log.read_text() for log in (work.folder / "logs").glob("*_log.out"))
        assert logs.count("averaged weights of step 100") == 1, "made once"
        limited.slurm.wait_idle()
        assert not slim.folder_of(work.run).exists()
