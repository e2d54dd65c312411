"""Interruptions of a run by a real Slurm: each ends as docs/slurm.md promises."""

import json
import os
import re
import time

from cld_core.checkpoint import load
from cld_core.run import RunFolder
from cld_core.run.events import Failed
from tests.support.tools import same, wait_for

from .lab import ENDLESS, PAIR, give

# Health checks of n1 cannot write into the run folder.
BROKEN = """
import os, pathlib
write = pathlib.Path.write_bytes
def refusing(file, content):
    if file.name.startswith(".health") and os.environ.get("SLURMD_NODENAME") == "n1":
        raise PermissionError(13, "Permission denied")
    return write(file, content)
pathlib.Path.write_bytes = refusing
"""


def went_on(lab, name, cause, *, saved=True):
    """The run continues automatically, from the last step of the attempt, with the right cause."""
    row = lab.training(name, 1)
    before, now = row["attempts"]
    assert before["cause"] == cause, row
    if saved:
        assert now["first_step"] == before["last_step"] > 0, "a step was lost, or trained twice"
    assert now["job_id"] == before["job_id"], "it is the same job"


def told(run):
    file = run.path / "told"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(content["state"], content["cause"]) for content in map(json.loads, lines)]


def test_preempted(lab):
    """With SIGTERM alone, and without grace; the user signal comes below, where the run ends
    bit-identical.

    Each change is told once, that it is cancelled in the end, too.
    """
    run = lab.submit(
        "mine", PAIR, 'hooks.on_change=cat >> "$CLDCTL_RUN_PATH/told"', partition="low0"
    )
    lab.training("mine")
    lab.slurm.preempt_all(1)
    went_on(lab, "mine", "preempted")
    lab.cldctl("cancel mine")
    expected = [
        ("RUNNING", None),
        ("REQUEUED", "preempted"),
        ("RUNNING", "preempted"),
        ("CANCELLED", "cancelled"),
    ]
    wait_for(
        lambda: len(told(run)) >= 4,
        timeout=60,
        what="the cancellation to be told",
        last_seen=lambda: told(run),
    )
    assert told(run) == expected


def test_time_limit(lab):
    run = lab.submit("mine", PAIR)
    row = lab.training("mine")
    lab.slurm.expire(row["job_id"], 40)
    went_on(lab, "mine", "timeout")
    assert run.ledger.history().requeued_attempts, "Slurm does not do that automatically"


def test_a_time_limit_that_no_rank_hears(lab, orders):
    """Slurm kills the batch script with the ranks: no script is left to requeue the job."""
    lab.submit("mine")
    row = lab.training("mine")
    give(orders, 0, "sleep")
    wait_for(lambda: not (orders / "rank0").exists(), what="the order to be read")
    lab.slurm.expire(row["job_id"])
    row = lab.ended("mine")
    assert (row["state"], "time limit" in row["reason"]) == ("STOPPED", True), row
    assert "time limit" in lab.cldctl("why mine").stdout
    lab.cldctl("resume mine")
    assert lab.training("mine", attempt=1)["attempts"][0]["cause"] == "timeout"


def test_node_failure(lab):
    lab.submit("mine", PAIR)
    row = lab.training("mine")
    lab.slurm.kill_node(row["host"] if row["host"] in ("n1", "n2") else "n2")
    went_on(lab, "mine", "node_failure", saved=False)
    first, second = lab.status("mine")["attempts"]
    assert second["first_step"] % 20 == 0
    assert (first["last_step"] or 0) - second["first_step"] <= 20 + 100, (
        "at most checkpoint_every steps are lost"
    )


def test_an_unfit_node_costs_nothing(lab, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    run = lab.submit("mine", PAIR, "train.max_retries=0", "train.steps=20")
    row = lab.ended("mine", timeout=120)
    assert row["state"] == "FINISHED", run.ledger.path.read_text()
    (unfit,) = run.ledger.history().failures
    assert (unfit.host, unfit.check, unfit.restart) == ("n1", "folder", 0)
    assert len(row["attempts"]) == 1
    assert lab.slurm.job_info(row["job_id"])["ExcNodeList"] == "n1"


def test_a_rank_that_crashes(lab, orders):
    """It dies while rank 0 is busy, which srun kills before it can report anything; `set -e`
    changes nothing."""
    run = lab.submit("mine", PAIR, "cluster.setup=[set -euo pipefail]")
    lab.training("mine")
    give(orders, 0, "nap")
    give(orders, 1, "die")
    went_on(lab, "mine", "crashed", saved=False)
    (failed,) = [
        event for event in run.ledger.events() if isinstance(event, Failed) and event.kind == "rank"
    ]
    assert (failed.rank, failed.host) == (1, "n2"), "the other rank failed because of this one"


def test_a_bug_is_not_retried(lab, orders):
    give(orders, 0, "always bug")
    lab.submit("mine", "cluster.successor=true")
    lab.ended("mine")
    lab.slurm.wait_idle(60)
    row = lab.status("mine")
    assert (row["state"], row["reason"]) == ("FAILED", "TypeError: this rank has a bug")
    assert len(row["attempts"]) == 1, "its successor does not retry it either"


def test_out_of_memory(lab, orders):
    lab.submit("mine", PAIR, "cluster.mem_gb=1.5")
    lab.training("mine")
    give(orders, 1, "hog")
    went_on(lab, "mine", "out_of_memory", saved=False)


def test_a_rank_that_hangs(lab, orders):
    run = lab.submit("mine", PAIR, "train.hang_timeout_s=20")
    lab.training("mine")
    give(orders, 1, "hang")
    went_on(lab, "mine", "crashed", saved=False)
    log = (run.logs / f"{lab.status('mine')['job_id']}_0_log.err").read_text()
    assert "Timeout" in log
    assert "session.py" in log, "the stacks are in the log"
    assert "train.hang_timeout_s" in lab.status("mine")["attempts"][0]["detail"]


def test_a_batch_script_that_is_killed(lab):
    """Its ranks are told to end, as by scancel, and no script is left to requeue the job."""
    lab.submit("alone")
    lab.submit("followed", "cluster.successor=true")
    for name in ("alone", "followed"):
        job = lab.training(name)["job_id"]
        lab.slurm.run(["scancel", "--batch", "--signal=KILL", job])
    before, now = lab.training("followed", attempt=1)["attempts"]
    assert (before["cause"], now["first_step"]) == ("killed", before["last_step"])
    row = lab.ended("alone")
    assert (row["state"], row["attempts"][0]["cause"]) == ("LOST", "killed")
    assert row["checkpoint_step"] == row["attempts"][0]["last_step"]


def test_cancelled(lab):
    """By scancel, on a cluster without accounting. The job that waits for it to fail does not
    begin."""
    lab.slurm.configure(accounting=False)
    run = lab.submit("mine", "cluster.successor=true")
    lab.slurm.run(["scancel", lab.training("mine")["job_id"]])
    row = lab.ended("mine")
    assert (row["state"], row["attempts"][0]["cause"]) == ("CANCELLED", "cancelled")
    assert row["checkpoint_step"] == row["attempts"][0]["last_step"], "it saved before it ended"
    lab.slurm.wait_idle(60)
    (successor,) = run.ledger.history().turned_away
    assert lab.slurm.job_state(successor) == "CANCELLED"
    lab.cldctl("resume mine")
    assert lab.training("mine", attempt=1)["attempts"][1]["first_step"] == row["checkpoint_step"]


def test_the_controller_is_restarted_in_the_middle(lab):
    lab.submit("mine")
    lab.training("mine")
    lab.slurm.kill_controller()
    away = lab.cldctl("status mine")
    assert "slurmctld does not answer" in away.stderr
    assert re.search(r"RUNNING as of \d+ ?s ago", away.stdout)
    refused = lab.cldctl("resume --yes", code=4)
    assert "slurmctld does not answer" in refused.stderr
    step, as_of = (lab.status("mine")[key] for key in ("step", "as_of"))
    assert time.time() - 60 < as_of <= time.time()
    lab.slurm.start_controller()
    row = lab.until(
        "mine", "to go on", lambda row: row["state"] == "RUNNING" and row["step"] > step + 20
    )
    assert len(row["attempts"]) == 1
    assert row["as_of"] is None


def test_exact_over_a_preemption_ends_bit_identical(lab):
    """Where preemption cancels, but sends the user's signal first: the run requeues itself."""
    lab.slurm.configure(user_signal=True, grace_time=20)
    cut = lab.submit("cut", partition="cancel")
    lab.training("cut")
    lab.slurm.preempt_all(1)
    went_on(lab, "cut", "preempted")
    lab.cldctl("cancel cut")
    steps = lab.ended("cut")["checkpoint_step"]
    lab.more["CLDCTL_TEST_PACE"] = "0"
    lab.cldctl("submit toy --name whole --cluster debug", *ENDLESS, f"train.steps={steps}")
    assert same(load(RunFolder(lab.runs / "whole"), steps), load(cut, steps))
