"""A short preemption soak; `python -m tests.slurm.soak` is the long one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .cluster import SlurmCluster
from .lab import Lab
from .mishaps import draw
from .soak import Soak


@pytest.mark.slow
def test_a_run_survives_everything(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = tmp_path / "orders"
    orders.mkdir()
    monkeypatch.setenv("CLDCTL_TEST_ORDERS", str(orders))
    rng = random.Random(8)
    soak = Soak(Lab(slurm, tmp_path / "runs"), orders, rng, checkpoint_every=100)
    # Slurm checks time limits only every 30 s.
    assert soak.run(draw(rng, 5, without=("time limit",))) == [], soak.table()
