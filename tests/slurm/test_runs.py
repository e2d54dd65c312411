"""Sweeps, `why`, and the code of a run on a real Slurm."""

import json

from cld_core.run.events import Started
from tests.support.plugin import toy_plugin

from .lab import PAIR, give


def test_each_run_of_an_array_is_preempted_killed_and_cancelled_alone(lab):
    first, second, third = names = lab.sweep(3)
    jobs = [lab.training(name)["job_id"] for name in names]
    arrays, tasks = zip(*(job.split("_") for job in jobs), strict=True)
    assert len(set(arrays)) == 1, "one array"
    assert tasks == ("0", "1", "2")

    lab.slurm.run(["scancel", "--signal=USR2", jobs[0]])
    lab.kill(second)
    lab.cldctl(f"cancel {third}")
    cause = lab.training(first, attempt=1)["attempts"][0]["cause"]
    assert cause == "terminated", "a person sent the signal"
    # Its batch script is that of the whole array, and so is what follows a bad end.
    killed = lab.training(second, attempt=1)
    assert killed["attempts"][0]["cause"] in ("crashed", "killed")
    assert [lab.status(name)["job_id"] for name in (first, second)] == jobs[:2], (
        "requeued, and not submitted again"
    )
    cancelled = lab.status(third)
    assert (cancelled["state"], len(cancelled["attempts"])) == ("CANCELLED", 1)
    logs = lab.cldctl(f"logs {second}")
    assert "crash 1 of" in logs.stderr + logs.stdout
    lab.cldctl("cancel mine")
    assert [lab.status(name)["state"] for name in names] == ["CANCELLED"] * 3


def why(lab, name):
    return json.loads(lab.cldctl(f"why {name} --json").stdout)


def test_the_rank_that_crashed_first_and_a_job_that_is_held(lab, orders):
    lab.submit("mine", PAIR)
    lab.training("mine")
    give(orders, 1, "raise")
    lab.until("mine", "a pause after the crash", lambda row: row["state"] == "REQUEUED")
    failed = why(lab, "mine")["failed_first"]
    assert (failed["attempt"], failed["rank"]) == (0, 1), failed
    assert failed["lines"][-1].endswith("RuntimeError: this rank was told to crash")
    assert "failed first in attempt 0" in lab.cldctl("why mine").stdout

    lab.training("mine", attempt=1)
    found = why(lab, "mine")
    assert (found["state"], found["failed_first"]) == ("RUNNING", None)
    first, second = found["attempts"]
    assert first["gained"] == second["first_step"]
    assert first["gained"] % 20 == 0
    assert first["gained"] + first["lost"] == first["last_step"]

    lab.slurm.run(["scontrol", "requeuehold", found["job_id"]])
    lab.until("mine", "its job to be held", lambda row: "held" in (row["reason"] or ""))
    found = why(lab, "mine")
    assert "it is held" in found["headline"], found
    assert f"scontrol release {found['job_id']}" in found["do"]


def test_a_requeued_job_runs_the_code_that_was_submitted(lab, tmp_path):
    """Whatever becomes of the plug-in file meanwhile; the job imports the packages from the run's
    folder, too."""
    points = "time.sleep(0.04) or torch.randn(n, 2, generator=generator)"
    plugin = toy_plugin(tmp_path / "mine.py", "mine", first="import time", points=points)
    run = lab.submit("mine", "data.name=mine", f"plugins={plugin}")
    row = lab.training("mine")
    plugin.write_text("raise SystemExit('this is not the plug-in that was submitted')\n")
    lab.slurm.run(["scontrol", "requeue", row["job_id"]])
    row = lab.training("mine", attempt=1)
    before, now = row["attempts"]
    assert (before["cause"], before["job_id"]) == ("requeued", now["job_id"])
    assert now["first_step"] == before["last_step"] > 0, "it saved before it ended"
    first, second = (event for event in run.ledger.events() if isinstance(event, Started))
    asked = run.ledger.history().code
    assert asked not in (None, "live")
    assert first.code == second.code == asked
    assert (len(second.hosts), row["changes"]) == (1, [])
