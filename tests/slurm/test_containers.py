"""A run in a container without Slurm restarts as any other: its wishes are done outside."""

import os

import pytest

from tests.support.tools import wait_for

from .containers import Containers


@pytest.fixture
def containers(tmp_path, monkeypatch):
    """Also has each Python of a job note where it runs."""
    containers = Containers(tmp_path / "containers")
    monkeypatch.setenv("PYTHONPATH", str(containers.path), prepend=os.pathsep)
    return containers


def submitted(lab, containers, *overrides):
    """The names of runs in each kind of container: two jobs and an array."""
    names = ["unconfigured", "pyxis"]
    for name in names:
        lab.submit(name, *overrides, *getattr(containers, name))
    return [*names, *lab.sweep(2, *overrides, *containers.apptainer)]


def came_back(lab, name, *causes):
    """The run trains again after an attempt that ended by one of these causes, as the same job."""
    row = lab.until(name, "to come back", lambda row: len(row["attempts"]) > 1, 150)
    before, now = row["attempts"][:2]
    assert before["cause"] in causes, (name, before)
    assert now["job_id"] == before["job_id"], name


def test_crashes(lab, containers, monkeypatch):
    """A rank is killed; and a node is left on which a run crashed twice."""
    monkeypatch.setenv("CLDCTL_TEST_BAD_NODE", "n1")
    broken = lab.submit("broken", "train.steps=60", *containers.apptainer)
    monkeypatch.delenv("CLDCTL_TEST_BAD_NODE")
    names = submitted(lab, containers, "cluster.exclude=n1")
    for name in names:
        lab.training(name)
        lab.kill(name)
    for name in names:
        came_back(lab, name, "crashed", "killed")
    row = lab.ended("broken", timeout=180)
    assert row["state"] == "FINISHED", broken.ledger.path.read_text()
    assert [(failed.host, failed.restart) for failed in broken.ledger.history().failures] == [
        ("n1", 0),
        ("n1", 1),
    ]
    assert lab.slurm.job_info(row["job_id"])["ExcNodeList"] == "n1"
    # Slurm counts whole seconds.
    first, second, third = row["attempts"]
    assert second["started"] - first["ended"] >= 9
    assert third["started"] - second["ended"] >= 19
    pythons = containers.pythons()
    assert {place for place, _ in pythons} == {"apptainer", "unconfigured", "pyxis"}, pythons
    assert {place for place, command in pythons if "cldctl.jobs.aftermath" in command} == {
        place for place, _ in pythons
    }


def test_time_limits(lab, containers, tmp_path):
    """During the training, and during the setup. What has no scontrol knows the limit that the job
    began with."""
    # A batch script that is in its setup decides after SIGTERM, which takes a busy machine long.
    lab.slurm.configure(kill_wait=120)
    begun = tmp_path / "begun"
    slow = f"cluster.setup=['[ -e {begun} ] || {{ touch {begun}; sleep 600; }}']"
    setup = lab.submit("setup", slow, *containers.apptainer)
    names = submitted(lab, containers, "cluster.time_min=1", "cluster.signal_s=5")
    wait_for(begun.exists, timeout=60, what="the setup")
    job = lab.status("setup")["job_id"]
    lab.slurm.expire(job)
    lab.slurm.wait_requeued(job)
    lab.slurm.run(["scontrol", "update", f"jobid={job}", "TimeLimit=30"])
    for name in names:
        came_back(lab, name, "timeout")
    assert len(lab.training("setup")["attempts"]) == 1
    assert [failed.kind for failed in setup.ledger.history().failures] == ["early"]


def test_preemption(lab, containers):
    """Where it is final, the successor follows, which the container cannot submit."""
    # A busy machine may take long over the saves.
    lab.slurm.configure(grace_time=60)
    names = submitted(lab, containers)
    lab.submit("final", "cluster.successor=true", *containers.apptainer, partition="cancel")
    for name in (*names, "final"):
        lab.training(name)
    lab.slurm.preempt_all(1)
    for name in names:
        came_back(lab, name, "preempted")
    before, now = lab.training("final", attempt=1)["attempts"]
    assert before["cause"] == "preempted"
    assert now["first_step"] == before["last_step"]
    assert now["job_id"] != before["job_id"]
