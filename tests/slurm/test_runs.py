"""Sweeps, hooks, `why`, and the code of a run on a real Slurm."""

import json

from cld_core.run.events import Started
from tests.support.plugin import toy_plugin
from tests.support.tools import wait_for

from .lab import ENDLESS, give

NAMES = [f"mine-seed{seed}" for seed in range(3)]


def test_each_run_of_an_array_is_preempted_killed_and_cancelled_alone(lab):
    sweep = ("--sweep", "train.seed=0,1,2", "--name", "mine")
    done = lab.cldctl("submit", "toy", *ENDLESS, "cluster.nodes=1", "cluster.partition=low", *sweep)
    assert done.stdout == "mine\n"
    assert "3 runs of the group mine: 3 new" in done.stderr
    jobs = [lab.training(name)["job_id"] for name in NAMES]
    arrays, tasks = zip(*(job.split("_") for job in jobs), strict=True)
    assert len(set(arrays)) == 1, "one array"
    assert tasks == ("0", "1", "2")

    lab.slurm.run(["scancel", "--signal=USR2", jobs[0]])
    lab.kill(NAMES[1])
    lab.cldctl("cancel", NAMES[2])
    assert lab.training(NAMES[0], attempt=1)["attempts"][0]["cause"] == "preempted"
    # Its batch script is that of the whole array, and so is what follows a bad end.
    killed = lab.training(NAMES[1], attempt=1)
    assert killed["attempts"][0]["cause"] in ("crashed", "killed")
    assert [lab.status(name)["job_id"] for name in NAMES[:2]] == jobs[:2], "requeued, and not submitted again"
    cancelled = lab.status(NAMES[2])
    assert (cancelled["state"], len(cancelled["attempts"])) == ("CANCELLED", 1)
    assert "crash 1 of" in lab.cldctl("logs", NAMES[1]).stderr + lab.cldctl("logs", NAMES[1]).stdout
    lab.cldctl("cancel", "mine")
    assert [lab.status(name)["state"] for name in NAMES] == ["CANCELLED"] * 3


HOOK = 'hooks.on_change=cat >> "$CLDCTL_RUN_PATH/told"'


def told(run):
    file = run.path / "told"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(content["state"], content["cause"]) for content in map(json.loads, lines)]


def test_each_change_is_told_once(slurm, lab):
    """A preemption and a cancellation."""
    run = lab.submit("mine", "cluster.nodes=1", HOOK)
    lab.training("mine")
    slurm.preempt_all(1)
    lab.training("mine", 1)
    lab.cldctl("cancel", "mine")
    expected = [("RUNNING", None), ("REQUEUED", "preempted"), ("RUNNING", "preempted"), ("CANCELLED", "cancelled")]
    wait_for(lambda: len(told(run)) >= 4, timeout=60, what="the cancellation to be told", last_seen=lambda: told(run))
    assert told(run) == expected, "each once"


def why(lab, name):
    return json.loads(lab.cldctl("why", name, "--json").stdout)


def test_the_rank_that_crashed_first_and_a_job_that_is_held(lab, orders):
    lab.submit("mine")
    lab.training("mine", steps=250)
    give(orders, 1, "raise")
    lab.training("mine", attempt=1)

    found = why(lab, "mine")
    failed = found["failed_first"]
    assert (found["state"], failed["attempt"], failed["rank"]) == ("RUNNING", 0, 1), failed
    assert failed["lines"][-1].endswith("RuntimeError: this rank was told to crash")
    first, second = found["attempts"]
    assert first["gained"] == second["first_step"]
    assert first["gained"] % 200 == 0
    assert first["gained"] + first["lost"] == first["last_step"]
    assert "failed first in attempt 0" in lab.cldctl("why", "mine").stdout

    lab.slurm.run(["scontrol", "requeuehold", found["job_id"]])
    lab.until("mine", "its job to be held", lambda row: "held" in (row["reason"] or ""))
    found = why(lab, "mine")
    assert "it is held" in found["headline"], found
    assert f"scontrol release {found['job_id']}" in found["do"]


def test_a_requeued_job_runs_the_code_that_was_submitted(lab, tmp_path):
    """Whatever becomes of the plug-in file meanwhile; the job imports the packages from the run's folder, too."""
    plugin = toy_plugin(tmp_path / "mine.py", "mine")
    run = lab.submit("mine", "data.name=mine", f"plugins={plugin}", "cluster.nodes=1")
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
