"""Limits of a real Slurm: how many tasks an array has, whose account it is, and what a QOS allows."""

import pytest

from .lab import ENDLESS

NAMES = [f"mine-seed{seed}" for seed in range(5)]


def test_a_sweep_of_several_arrays_trains_as_many_at_once_as_asked_for(lab):
    lab.slurm.configure(array_size=2)
    sweep = ("--sweep", "train.seed=0,1,2,3,4", "--name", "mine", "--parallel", "2")
    done = lab.cldctl("submit", "toy", *ENDLESS, "cluster.partition=low", *sweep)
    assert "5 runs of the group mine: 5 new" in done.stderr
    jobs = {name: lab.status(name)["job_id"] for name in NAMES}
    first, second, third = dict.fromkeys(job.partition("_")[0] for job in jobs.values())
    assert [*jobs.values()] == [f"{first}_0", f"{first}_1", f"{second}_0", f"{second}_1", third]

    for name in NAMES[:2]:
        lab.training(name)
    lab.cldctl("cancel", NAMES[0])
    # The others wait while the last one of the first array is between two starts, too.
    lab.slurm.run(["scancel", "--signal=USR2", jobs[NAMES[1]]])
    lab.training(NAMES[1], attempt=1)
    waits = [lab.status(name)["reason"] for name in NAMES[2:]]
    assert waits == ["Dependency"] * 3
    assert f"afterany:{first}_*" in lab.cldctl("why", NAMES[4]).stdout

    lab.cldctl("cancel", NAMES[1])
    for name in NAMES[2:4]:
        lab.training(name)
    assert lab.status(NAMES[4])["reason"] == "Dependency"
    lab.cldctl("cancel", "mine")
    assert [lab.status(name)["state"] for name in NAMES] == ["CANCELLED"] * 5
    assert lab.status(NAMES[4])["attempts"] == []
    assert "5 resumed" in lab.cldctl("resume", "mine").stderr
    assert {lab.status(name)["state"] for name in NAMES} <= {"PENDING", "RUNNING"}
    lab.cldctl("cancel", "mine")


@pytest.fixture
def enforced(lab):
    """cldctl on the cluster, which enforces accounts and limits; what a QOS is changed to is undone."""
    lab.slurm.configure(enforce=True)
    yield lab
    limit(lab, MaxJobsPerUser=-1)


def limit(lab, **limits):
    """Give everybody's QOS these limits."""
    wanted = [f"{name}={value}" for name, value in limits.items()]
    lab.slurm.run(["sacctmgr", "-i", "modify", "qos", "normal", "set", *wanted])


def test_a_wrong_account_is_refused_by_its_name_with_those_to_choose(enforced):
    settings = ("cluster.partition=low", "cluster.account=nope", "--name", "mine")
    said = enforced.cldctl("submit", "toy", *ENDLESS, *settings, code=4).stderr
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "Invalid account" in line
    assert line.endswith("cluster.account is nope. Set it to one of yours: root.")
    assert not (enforced.runs / "mine").exists()


def test_a_run_that_waits_for_a_limit_of_its_qos_says_so(enforced):
    limit(enforced, MaxJobsPerUser=1)
    enforced.submit("first")
    enforced.training("first")
    enforced.submit("second")
    name = "QOSMaxJobsPerUserLimit"
    enforced.until("second", "the limit", lambda row: row["reason"] == name)
    said = " ".join(enforced.cldctl("why", "second").stdout.split())
    assert f"as much running as the quality of service allows one user ({name})" in said
    assert "wait for your other jobs, or cancel some" in said
    enforced.cldctl("cancel", "first")
    enforced.training("second")
    enforced.cldctl("cancel", "second")
