"""Limits of a real Slurm: the tasks of an array, accounts, and those of a QOS."""

from .lab import ENDLESS


def test_of_a_sweep_of_several_arrays_as_many_train_at_once_as_asked_for(lab):
    lab.slurm.configure(array_size=2)
    first, second, third = names = lab.sweep(3, options="--parallel 1")
    jobs = [lab.status(name)["job_id"] for name in names]
    array = jobs[0].partition("_")[0]
    assert jobs[:2] == [f"{array}_0", f"{array}_1"]
    lab.training(first)
    lab.cldctl(f"cancel {first}")
    lab.training(second)
    # Between two starts of the last task of the first array, too.
    lab.slurm.run(["scancel", "--signal=USR2", jobs[1]])
    lab.training(second, attempt=1)
    assert lab.status(third)["reason"] == "Dependency"
    assert f"afterany:{array}_*" in lab.cldctl(f"why {third}").stdout
    lab.cldctl(f"cancel {second}")
    lab.training(third)


def test_a_wrong_account_and_a_limit_of_a_qos_are_named(lab):
    lab.slurm.configure(enforce=True)
    settings = "cluster.partition=low cluster.account=nope"
    said = lab.cldctl(f"submit toy {settings} --name mine", *ENDLESS, code=4).stderr
    assert "cluster.account is nope. Set it to one of yours: root." in said

    limit = ("sacctmgr", "-i", "modify", "qos", "normal", "set")
    lab.slurm.run([*limit, "MaxJobsPerUser=1"])
    try:
        lab.submit("first")
        lab.training("first")
        lab.submit("second")
        lab.until("second", "the limit", lambda row: row["reason"] == "QOSMaxJobsPerUserLimit")
        assert "quality of service allows one user" in lab.cldctl("why second").stdout
    finally:
        lab.slurm.run([*limit, "MaxJobsPerUser=-1"])
