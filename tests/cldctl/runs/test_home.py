"""Which cluster a run belongs to."""

import subprocess
import sys

import pytest

from cld_core.config import load
from cld_core.errors import UsageError
from cld_core.run import RunFolder
from cld_core.run.events import JobRef, NotSubmitted, Requested, Submitted
from cldctl import clusters
from cldctl.runs import home
from tests.support.paths import RECIPES
from tests.support.scheduler import clients
from tests.support.tools import DEBUG, ONE, invoke, status


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """An sbatch on PATH that notes that it was called, and refuses, and a configuration."""
    (tmp_path / "slurm.conf").touch()
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    return clients(tmp_path, monkeypatch, "echo no >&2\nexit 1")


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "mine", load(RECIPES / "toy.yaml"), {"created": 1.0})


def test_a_run_stays_on_its_cluster_although_there_is_an_sbatch(tmp_path, sbatch):
    runs = tmp_path / "runs"
    invoke("submit", "toy", *ONE, "--name", "mine", *DEBUG, runs=runs)
    invoke("resume", "mine", "train.steps=30", runs=runs)
    evaluated = invoke("eval", "mine", "--elbo", "sampling.method=em", "sampling.nfe=2", runs=runs)
    assert "(debug)" in evaluated.stderr
    assert (status(runs, "mine")["state"], status(runs, "mine")["cluster"]) == ("FINISHED", "debug")
    assert not sbatch.exists(), "no client of Slurm was asked"
    refused = invoke("resume", "mine", "train.steps=40", "--cluster", "slurm", runs=runs, code=4)
    assert "sbatch" in sbatch.read_text()
    assert len(refused.stderr.splitlines()) == 2, "the step, and the refusal in one line"
    assert status(runs, "mine")["state"] == "FAILED"


def test_the_last_job_decides(run, sbatch):
    assert home.chosen(None, run).name == "slurm", "the default"
    run.ledger.append(Submitted(job=JobRef(cluster="local", job_id="1")))
    assert home.chosen(None, run).name == "local"
    assert home.chosen("debug", run).name == "debug"


def test_a_cluster_that_cannot_be_used_here_is_named(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    run.ledger.append(Submitted(job=JobRef(cluster="slurm", job_id="1")))
    assert home.chosen(None).name == "local"
    with pytest.raises(
        UsageError, match=r"--cluster slurm: there is no sbatch on this machine\. Use --cluster local\."
    ):
        home.chosen(None, run)


def test_whether_somebody_submits_at_this_moment(run):
    """A process that holds the lock itself is not somebody else."""
    assert not home.is_locked(run.path)
    with home.only_one(run.path, clusters.find("local")):
        assert not home.is_locked(run.path)
        look = "import sys; from pathlib import Path; from cldctl.runs.home import is_locked; "
        look += "sys.exit(is_locked(Path(sys.argv[1])))"
        assert subprocess.run([sys.executable, "-c", look, str(run.path)]).returncode == 1
    assert not home.is_locked(run.path)


def test_a_request_without_a_job_says_for_which_cluster_it_was(run, sbatch):
    run.ledger.append(Requested(steps=10, cluster="local"))
    assert home.chosen(None, run).name == "local", "its submission was interrupted"
    run.ledger.append(NotSubmitted(reason="refused"))
    assert home.chosen(None, run).name == clusters.default().name == "slurm"
