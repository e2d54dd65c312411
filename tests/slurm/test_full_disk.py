"""A disk that is full for some seconds: what a job cannot write, it does without, and starts again all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cld_core.run.events import GivenUp
from tests.support.tools import fill, small_disk

from .cluster import SlurmCluster
from .lab import Lab, give
from .polling import wait_until


@pytest.fixture
def lab(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Lab]:
    (tmp_path / "runs").mkdir()
    with small_disk(tmp_path / "runs"):
        yield Lab(slurm, tmp_path / "runs")
        slurm.cancel_all()


@pytest.mark.by_hand
def test_a_rank_crashes_while_the_disk_is_full(lab: Lab, orders: Path) -> None:
    run = lab.submit("mine")
    lab.training("mine", steps=250)
    ballast = fill(lab.runs)

    def aftermaths() -> list[psutil.Process]:
        return lab.slurm.processes.in_jobs("cldctl.jobs.aftermath")

    give(orders, 1, "die")
    wait_until(aftermaths, timeout=60, what="the aftermath")
    # It has tried to write by the time at which it has tried for as long as a rank does.
    wait_until(
        lambda: any(process.create_time() < time.time() - 10 for process in aftermaths()) or not aftermaths(),
        timeout=60, what="an aftermath that could not write",
    )  # fmt: skip
    ballast.unlink()
    first, second = lab.training("mine", 1)["attempts"]
    assert first["cause"] == "crashed"
    assert first["job_id"] == second["job_id"]
    assert not any(isinstance(event, GivenUp) for event in run.ledger.events())
