"""Tunings that are killed, as real processes of the local executor."""

import re
import shutil
from pathlib import Path

import psutil
import pytest

from cld_core.run import RunFolder
from cld_core.tuned.work import Tuning, tunings_of
from tests.support.paths import HELD
from tests.support.tools import DEBUG, ONE, invoke, told_by_solution, wait_for

NFE, POINTS = "3", "8"
LOCAL = ("--cluster", "local")
# Rows that stand still until the process is killed.
HOLDS = ("grid-11", "coefficients-20")


@pytest.fixture
def runs(fresh_runs):
    return fresh_runs


def tune(runs: Path, name: str, *options: str, **env: str) -> None:
    invoke("tune", name, "--nfe", NFE, "--points", POINTS, *options, runs=runs, **env)


def processes_of(work: Tuning) -> list[psutil.Process]:
    """The processes of the newest job of a tuning: the one that starts the other, and the one that computes."""
    controller = psutil.Process(int(work.ledger.history().jobs[-1].job.job_id))
    return [controller, *controller.children(recursive=True)]


@pytest.mark.slow
def test_a_killed_tuning_goes_on_from_its_rows_to_the_same_bits(runs, tmp_path):
    """SIGKILL to all its processes while times and while coefficients are fitted, as when a machine goes down."""
    invoke("submit", "toy", *ONE, *HELD, "--name", "killed", *DEBUG, runs=runs)
    shutil.copytree(runs / "killed", runs / "quiet")
    tune(runs, "quiet", *DEBUG)
    holds = tmp_path / "holds"
    holds.mkdir()
    for name in HOLDS:
        (holds / name).touch()
    for name in HOLDS:
        tune(runs, "killed", *LOCAL, CLDCTL_TEST_HOLDS=str(holds))
        (work,) = tunings_of(RunFolder(runs / "killed"))
        kind, row = name.split("-")
        sizes = work.request.sizes
        before = sum(sizes[it] for it in list(sizes)[: list(sizes).index(kind)]) + int(row)
        wait_for(lambda before=before, work=work: work.rows_done()[0] == before)
        for process in (killed := processes_of(work)):
            process.kill()
        psutil.wait_procs(killed, timeout=60)
        assert not work.is_done
        (holds / name).unlink()
    tune(runs, "killed", *LOCAL, "--follow", CLDCTL_TEST_HOLDS=str(holds))
    (quiet,) = tunings_of(RunFolder(runs / "quiet"))
    assert told_by_solution(work.solution) == told_by_solution(quiet.solution)
    logs = "".join(log.read_text() for log in (work.folder / "logs").glob("*.out"))
    rows = re.findall(r"^shard 0 of 1: (.+/\d+)$", logs, re.M)
    assert len(rows) == len(set(rows)) == work.rows_done()[1], "every row is computed once"
