"""Nodes that are broken, a limit that comes too early, and a controller that is away when a job wants it."""

import os
import signal
import time

import pytest

from cld_core.run.evaluations import Evaluation
from cld_core.run.events import Ended, Failed, GivenUp, Started, Wished
from cldctl.clusters.local import _MODULE as MODULE
from tests.support.tools import wait_for

from .lab import give

ALONE = ("cluster.nodes=1", "train.steps=60")
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


def test_a_run_leaves_a_node_on_which_it_crashed_twice(lab, monkeypatch):
    monkeypatch.setenv("CLDCTL_TEST_BAD_NODE", "n1")
    run = lab.submit("mine", *ALONE)
    row = lab.ended("mine", timeout=180)
    assert row["state"] == "FINISHED", run.ledger.path.read_text()
    events = run.ledger.events()
    failed = [event for event in events if isinstance(event, Failed) and event.kind == "rank"]
    assert [(event.host, event.restart) for event in failed] == [("n1", 0), ("n1", 1)]
    assert [event.exclude for event in events if isinstance(event, Wished)] == [(), ("n1",)]
    assert lab.slurm.job_info(row["job_id"])["ExcNodeList"] == "n1"
    said = (run.logs / f"{row['job_id']}_0_log.err").read_text()
    assert "node n1 is avoided from now on: 2 crashes" in said
    # Slurm counts whole seconds. Before, the second gap was as short as the first.
    first, second, third = row["attempts"]
    assert second["started"] - first["ended"] >= 9
    assert third["started"] - second["ended"] >= 19
    lab.cldctl("resume", "mine", "train.steps=120")
    assert run.ledger.history().submitted[-1].exclude == ("n1",), "another job knows, too"


def test_an_unfit_node_costs_nothing(lab, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    run = lab.submit("mine", "train.max_retries=0", "train.steps=60")
    row = lab.ended("mine", timeout=120)
    assert row["state"] == "FINISHED", run.ledger.path.read_text()
    (unfit,) = run.ledger.history().failures
    assert (unfit.host, unfit.check, unfit.restart) == ("n1", "folder", 0)
    assert len(row["attempts"]) == 1
    assert lab.slurm.job_info(row["job_id"])["ExcNodeList"] == "n1"


def test_a_time_limit_during_the_setup(lab, tmp_path):
    """The notice of the limit goes to steps, and there is none: the batch script itself has to react."""
    begun = tmp_path / "begun"
    slow = f"[ -e {begun} ] || {{ touch {begun}; sleep 600; }}"
    run = lab.submit("mine", "train.steps=60", "cluster.nodes=1", f"cluster.setup=['{slow}']")
    wait_for(begun.exists, timeout=60, what="the setup")
    job = lab.status("mine")["job_id"]
    lab.slurm.expire(job)
    wait_for(
        lambda: any(event.kind == "early" for event in run.ledger.history().failures),
        timeout=90, what="the limit to be noticed", last_seen=lab.slurm.describe,
    )  # fmt: skip
    lab.slurm.wait_requeued(job)
    lab.slurm.run(["scontrol", "update", f"jobid={job}", "TimeLimit=30"])
    row = lab.ended("mine", timeout=120)
    assert (row["state"], len(row["attempts"])) == ("FINISHED", 1), run.ledger.path.read_text()


# Longer than a job that asks once a minute, each time for half a minute, would notice.
OUTAGE_S = 110.0


def until(ledger, kind):
    wait_for(
        lambda: any(isinstance(event, kind) for event in ledger.events()),
        timeout=60, what=f"{kind.__name__} in the ledger", last_seen=ledger.path.read_text,
    )  # fmt: skip


@pytest.mark.by_hand
def test_it_is_away_at_a_notice_at_a_crash_and_at_the_notice_of_a_task(lab, orders, monkeypatch):
    crashed = lab.submit("crashed")
    monkeypatch.delenv("CLDCTL_TEST_ORDERS")  # Orders are for that run alone.
    noticed = lab.submit("noticed")
    lab.training("crashed", steps=250)
    lab.training("noticed")
    run = lab.submit("mine", "cluster.nodes=1", "train.steps=100")
    lab.ended("mine")
    settings = ("eval.samples=480", "eval.batch_size=16", "eval.elbo.velocities=4")
    monkeypatch.setenv("CLDCTL_TEST_PACE", "0.2")
    lab.cldctl("eval", "mine", "--elbo", "--shards", "1", *settings)
    work = Evaluation(run.evals / lab.status("mine")["evals"][0]["id"])
    wait_for(lambda: 0 < work.rows_done()[0] < 200, what="a shard in progress")
    processes = lab.slurm.processes.in_jobs(MODULE, "SLURM_PROCID")
    (task,) = (process for process in processes if str(work.folder) in process.cmdline()[-1])
    lab.slurm.kill_controller()
    task.send_signal(signal.SIGUSR2)
    (started,) = (event for event in noticed.ledger.events() if isinstance(event, Started))
    os.kill(started.pid, signal.SIGUSR2)
    give(orders, 1, "raise")
    until(crashed.ledger, Ended)
    until(noticed.ledger, Ended)
    time.sleep(OUTAGE_S)  # The fault itself.
    lab.slurm.start_controller()
    for run, cause in ((crashed, "crashed"), (noticed, "preempted")):
        first, second = lab.training(run.name, 1)["attempts"]
        assert (first["cause"], first["job_id"]) == (cause, second["job_id"])
        assert not any(isinstance(event, GivenUp) for event in run.ledger.events()), run.ledger.path.read_text()
    lab.until("mine", "the report", lambda row: row["evals"][0]["nll"] is not None, 240)
    assert not work.ledger.history().crashes
