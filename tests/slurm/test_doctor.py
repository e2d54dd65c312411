"""`cldctl doctor` on the test cluster: what it says about different partitions, and if Slurm does not answer."""

from __future__ import annotations

import json

import pytest

from cldctl.clusters.base import Check, DoctorOptions
from cldctl.clusters.slurm import doctor
from cldctl.clusters.slurm.cluster import SlurmCluster

from .lab import Lab

NO_SAVES = {"job": False, "slowest_save_s": None, "notice_s": 90}
PARTITIONS = ("low", "low0", "cancel", "short", "high")


@pytest.fixture
def lab(slurm, tmp_path, monkeypatch):
    """Also sets the environment for calls from this process, which do not have to load torch."""
    for name, value in slurm.env.items():
        monkeypatch.setenv(name, value)
    return Lab(slurm, tmp_path / "runs")


def command(lab, *options, code=0):
    """The checks by name, from the command line."""
    report = json.loads(lab.cldctl("doctor", "--json", *options, code=code).stdout)
    return _by_name([Check(**check) for check in report["checks"]])


def checks(lab, **asked):
    """The checks of the cluster alone, from this process; without a job unless asked for."""
    return _by_name(list(SlurmCluster().checks(lab.runs, DoctorOptions(**{**NO_SAVES, **asked}))))


def _by_name(checks):
    return {check.name.replace(" (default)", ""): check for check in checks}


def test_every_partition_and_a_job_on_a_node(lab):
    found = command(lab)
    preemption = {name: found[f"partition {name}: preemption"] for name in PARTITIONS}
    assert {name: check.verdict for name, check in preemption.items()} == {
        "low": "ok", "low0": "ok", "cancel": "warn", "short": "ok", "high": "ok",
    }  # fmt: skip
    assert "SIGTERM at once, SIGKILL after 15 s" in preemption["low"].found
    assert "SIGTERM at once, SIGKILL after 5 s" in preemption["low0"].found
    assert "not restarted by Slurm" in preemption["cancel"].found
    assert "cluster.successor=true" in preemption["cancel"].advice
    assert "never" in preemption["high"].found
    assert "no save was measured" in preemption["low"].found
    assert found["partition low: time limit"].verdict == "ok"
    assert "cluster.time_min" in found["partition short: time limit"].advice
    assert found["accounting"].verdict == found["requeue"].verdict == found["--requeue"].verdict == "ok"
    assert found["a job on a node"].verdict == found["runs folder on a node"].verdict == "ok"
    assert "that node is this machine" in found["runs folder on a node"].found, "as all nodes of the test cluster are"
    assert "4 nodes" in found["MASTER_ADDR"].found
    assert lab.slurm.run("squeue -h").stdout == ""
    assert not list(lab.runs.parent.glob(".cldctl-doctor-*")), "it leaves nothing behind"


def test_the_user_signal_and_saves_that_do_not_fit(lab):
    lab.slurm.configure(user_signal=True, requeue=False)
    found = checks(lab, slowest_save_s=8.0, notice_s=84)
    low, low0, cancel = (found[f"partition {name}: preemption"] for name in ("low", "low0", "cancel"))
    assert "SIGUSR2 at once, SIGTERM after 10 s, SIGKILL after 15 s" in low.found
    assert (low.verdict, low0.verdict) == ("warn", "fail")
    assert "SIGUSR2 and SIGTERM at once" in low0.found
    assert "does not fit" in low0.found
    assert "requeued by the run itself" in cancel.found
    assert "SIGUSR2 84 s before" in found["partition low: time limit"].found
    assert "JobRequeue=0" in found["requeue"].found
    assert "a job on a node" not in found
    assert [name for name in checks(lab, partition="low") if "part" in name] == [
        "partition low: preemption", "partition low: time limit",
    ]  # fmt: skip
    assert "low0" in checks(lab, partition="nowhere")["partitions"].advice


def test_a_job_that_does_not_start_in_time_is_cancelled(lab):
    lab.slurm.preempt_all(60)
    found = checks(lab, partition="high", job=True, wait_s=2)["a job on a node"]
    assert found.verdict == "warn"
    assert "--wait" in found.advice
    assert "cldctl-doctor" not in lab.slurm.run("squeue -h -o %j").stdout


def test_runs_on_a_disk_that_nodes_do_not_have(lab, monkeypatch):
    """All nodes are this machine, so the job is given another folder."""
    written = doctor.probe_script
    monkeypatch.setattr(doctor, "probe_script", lambda folder, hosts: written(folder / "elsewhere", hosts))
    folder = lab.runs.parent / "here"
    folder.mkdir()
    (check,) = doctor.probe(folder, ["n1"], ["--partition=low"], 60, lab.runs)
    assert (check.name, check.verdict) == ("runs folder on a node", "fail")
