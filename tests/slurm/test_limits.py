"""Limits of a real Slurm: the tasks of an array, accounts, and those of a QOS."""

from .lab import ENDLESS

NAMES = [f"mine-seed{seed}" for seed in range(3)]


def test_of_a_sweep_of_several_arrays_as_many_train_at_once_as_asked_for(lab):
    lab.slurm.configure(array_size=2)
    sweep = ("--sweep", "train.seed=0,1,2", "--name", "mine", "--parallel", "1")
    lab.cldctl("submit", "toy", *ENDLESS, "cluster.partition=low", *sweep)
    jobs = [lab.status(name)["job_id"] for name in NAMES]
    array = jobs[0].partition("_")[0]
    assert jobs[:2] == [f"{array}_0", f"{array}_1"]
    lab.training(NAMES[0])
    lab.cldctl("cancel", NAMES[0])
    lab.training(NAMES[1])
    # Between two starts of the last task of the first array, too.
    lab.slurm.run(["scancel", "--signal=USR2", jobs[1]])
    lab.training(NAMES[1], attempt=1)
    assert lab.status(NAMES[2])["reason"] == "Dependency"
    assert f"afterany:{array}_*" in lab.cldctl("why", NAMES[2]).stdout
    lab.cldctl("cancel", NAMES[1])
    lab.training(NAMES[2])


def test_a_wrong_account_and_a_limit_of_a_qos_are_named(lab):
    lab.slurm.configure(enforce=True)
    settings = ("cluster.partition=low", "cluster.account=nope", "--name", "mine")
    said = lab.cldctl("submit", "toy", *ENDLESS, *settings, code=4).stderr
    assert "cluster.account is nope. Set it to one of yours: root." in said

    limit = ("sacctmgr", "-i", "modify", "qos", "normal", "set")
    lab.slurm.run([*limit, "MaxJobsPerUser=1"])
    try:
        lab.submit("first")
        lab.training("first")
        lab.submit("second")
        lab.until("second", "the limit", lambda row: row["reason"] == "QOSMaxJobsPerUserLimit")
        assert "quality of service allows one user" in lab.cldctl("why", "second").stdout
    finally:
        lab.slurm.run([*limit, "MaxJobsPerUser=-1"])
