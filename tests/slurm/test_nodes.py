"""A node that is broken, and a controller that is away when a job wants it."""

import os
import signal
import time

import pytest

from cld_core.run.evaluations import Evaluation
from cld_core.run.events import Ended, GivenUp, Started
from cldctl.clusters.local import _MODULE as MODULE
from tests.support.tools import wait_for

from .lab import give

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
