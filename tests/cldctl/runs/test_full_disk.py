"""A real disk that is full for some seconds: a training of two ranks meets it, and goes on with nothing lost."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cld_core.checkpoint.files import newest_good, sidecar_of
from cld_core.run import RunFolder
from cld_core.run.events import Dropped
from tests.support.tools import SMALL, cldctl, fill, small_disk, status, wait_ended, wait_for, wait_step


@pytest.fixture
def disk(fresh_runs: Path) -> Iterator[Path]:
    fresh_runs.mkdir()
    with small_disk(fresh_runs):
        yield fresh_runs


@pytest.mark.slow
def test_a_full_disk_costs_a_training_nothing(disk: Path) -> None:
    settings = ("train.steps=1000000", "train.checkpoint_every=200", "train.keep=2")
    cldctl("submit", "toy", *SMALL, *settings, "--name", "mine", "--cluster", "local", runs=disk)
    run = RunFolder(disk / "mine")
    wait_step(run, 300)
    ballast = fill(disk)
    before = run.checkpoint_steps()[-1]
    # The smallest write fails: neither progress nor a checkpoint gets through.
    wait_for(lambda: time.time() - run.progress_file.stat().st_mtime > 5)
    ballast.unlink()
    wait_for(lambda: run.checkpoint_steps()[-1] > before + 200)
    wait_for(lambda: any(isinstance(event, Dropped) for event in run.ledger.events()))
    row = status(disk, "mine")
    assert (row["state"], len(row["attempts"])) == ("RUNNING", 1), row
    assert "progress.json" in [event.what for event in run.ledger.events() if isinstance(event, Dropped)]
    cldctl("cancel", "mine", runs=disk)
    row = wait_ended(disk, "mine")
    assert (row["state"], row["attempts"][0]["cause"]) == ("CANCELLED", "cancelled")
    newest, damaged = newest_good(run)
    assert (newest, damaged) == (row["attempts"][0]["last_step"], [])
    assert sidecar_of(run, newest) is not None
    assert not list(run.checkpoints.glob(".*.tmp")), "nothing half-written is left"
