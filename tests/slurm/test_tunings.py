"""A tuning that a real Slurm preempts and starts again."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from cld_core.run import RunFolder
from cld_core.tune.tuning import STAGES, tunings_of
from tests.support.paths import HELD
from tests.support.tools import DEBUG, ONE, told_by_solution

from .lab import Lab

TUNE = ("--nfe", "3", "--points", "8")


@pytest.mark.by_hand
def test_a_preempted_tuning_goes_on_in_the_queue_to_the_same_bits(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preempted without notice, while it computes row 12 of the grid."""
    lab.cldctl("submit", "toy", *ONE, *HELD, "--name", "mine", *DEBUG)
    shutil.copytree(lab.runs / "mine", lab.runs / "quiet")
    hold = tmp_path / "grid-12"
    hold.touch()
    monkeypatch.setenv("CLDCTL_TEST_HOLDS", str(tmp_path))
    lab.cldctl("tune", "mine", *TUNE, "--cluster", "slurm", "cluster.partition=low0")
    (work,) = tunings_of(RunFolder(lab.runs / "mine"))
    before = work.request.sizes["flow"] + work.request.sizes["untuned"] + 12
    lab.until("mine", "a tuning in progress", lambda row: row["tunings"][0]["rows_done"] == before)
    (event,) = work.ledger.history().jobs
    lab.slurm.preempt_all(1)
    lab.slurm.wait_requeued(event.job.job_id)
    hold.unlink()
    row = lab.until("mine", "a solution", lambda row: row["tunings"][0]["state"] == "FINISHED", 240)
    assert row["tunings"][0]["rows_done"] == row["tunings"][0]["rows"]
    lab.cldctl("tune", "quiet", *TUNE, *DEBUG)
    (quiet,) = tunings_of(RunFolder(lab.runs / "quiet"))
    assert told_by_solution(work.solution) == told_by_solution(quiet.solution)
    assert len(work.ledger.history().jobs) == 1, "the scheduler started it again, nobody else"
    logs = "".join(log.read_text() for log in (work.folder / "logs").glob("*.out"))
    rows = re.findall(r"^(\w+ \d+)/\d+", logs, re.M)
    assert f"coefficients {STAGES['coefficients']}" in rows
    assert len(rows) == len(set(rows)), "no row is computed twice"
    lab.slurm.wait_idle()
