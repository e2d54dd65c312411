"""`--follow`: the exit code says how the run ended, and Ctrl-C leaves the job alone."""

import signal
import subprocess
import sys

import pytest

from cld_core.run import RunFolder
from tests.support.tools import SMALL, cldctl, ranks_of, status, wait_for, wait_step

LONG = (*SMALL, "train.steps=1000000", "--name", "mine", "--cluster", "local", "--follow")


@pytest.fixture
def runs(fresh_runs):
    return fresh_runs


@pytest.fixture
def following(runs):
    command = [sys.executable, "-m", "cldctl", "submit", "toy", *LONG, "--runs-dir", str(runs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for((runs / "mine" / "run.json").is_file)
    wait_step(RunFolder(runs / "mine"), 10)
    yield process
    process.kill()


def test_cancelled_is_5(runs, following):
    cldctl("cancel", "mine", runs=runs)
    out, err = following.communicate(timeout=60)
    assert following.returncode == 5
    assert out.splitlines() == ["mine"]
    assert "CANCELLED at step" in err
    assert "mine RUNNING" in err
    assert "cldctl resume mine" in err


def test_failed_is_1(runs, following):
    ranks_of(RunFolder(runs / "mine"))[1].kill()
    _, err = following.communicate(timeout=60)
    assert following.returncode == 1
    assert "FAILED" in err


def test_interrupted_is_130_and_the_job_goes_on(runs, following):
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=60)
    assert following.returncode == 130
    assert "the job goes on" in err
    run = RunFolder(runs / "mine")
    wait_step(run, run.progress()["step"] + 10)
    assert status(runs, "mine")["state"] == "RUNNING"
    cldctl("cancel", "mine", runs=runs)
