"""A sweep of trainings on a real Slurm: one array whose tasks are runs, each on its own."""

from __future__ import annotations

import os
import signal

from cld_core.run import RunFolder
from cld_core.run.lease import local_holder

from .lab import ENDLESS, Lab

SUBMIT = (
    *("submit", "toy", *ENDLESS, "cluster.nodes=1", "cluster.partition=low"),
    *("--sweep", "train.seed=0,1,2", "--name", "mine"),
)
NAMES = [f"mine-seed{seed}" for seed in range(3)]


def test_each_run_of_an_array_is_preempted_killed_cancelled_and_resumed_alone(lab: Lab) -> None:
    done = lab.cldctl(*SUBMIT)
    assert done.stdout == "mine\n"
    assert "3 runs of the group mine: 3 new" in done.stderr
    jobs = [lab.training(name)["job_id"] for name in NAMES]
    arrays, tasks = zip(*(job.split("_") for job in jobs), strict=True)
    assert len(set(arrays)) == 1, "one array"
    assert tasks == ("0", "1", "2")

    lab.slurm.run(["scancel", "--signal=USR2", jobs[0]])
    holder = local_holder(RunFolder(lab.runs / NAMES[1]).leases)
    assert holder is not None
    os.kill(holder["pid"], signal.SIGKILL)
    lab.cldctl("cancel", NAMES[2])
    assert lab.training(NAMES[0], attempt=1)["attempts"][0]["cause"] == "preempted"
    # Its batch script is that of the whole array, and so is what follows a bad end.
    killed = lab.training(NAMES[1], attempt=1)
    assert killed["attempts"][0]["cause"] in ("crashed", "killed")
    assert [lab.status(name)["job_id"] for name in NAMES[:2]] == jobs[:2], "requeued, and not submitted again"
    cancelled = lab.status(NAMES[2])
    assert (cancelled["state"], len(cancelled["attempts"])) == ("CANCELLED", 1)
    assert "crash 1 of" in lab.cldctl("logs", NAMES[1]).stderr + lab.cldctl("logs", NAMES[1]).stdout

    again = lab.cldctl(*SUBMIT)
    assert "1 resumed, 2 running already" in again.stderr
    resumed = lab.training(NAMES[2], attempt=1)
    assert resumed["attempts"][1]["first_step"] == cancelled["checkpoint_step"]
    assert [len(lab.status(name)["attempts"]) for name in NAMES] == [2, 2, 2]

    lab.cldctl("cancel", "mine")
    assert [lab.status(name)["state"] for name in NAMES] == ["CANCELLED"] * 3
