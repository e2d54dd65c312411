"""A controller that does not answer when a job wants to go back into the queue: the job asks until it does."""

from __future__ import annotations

import os
import signal
import time

import pytest

from cld_core.run.evaluations import Evaluation
from cld_core.run.events import Ended, GivenUp, Started
from cldctl.clusters.entry import MODULE
from tests.support.tools import wait_for

from .lab import give

# Longer than a job that asks once a minute, each time for half a minute, would notice.
OUTAGE_S = 110.0


def pid_of_rank_0(run):
    started = [event for event in run.ledger.events() if isinstance(event, Started)]
    assert started[-1].pid is not None
    return started[-1].pid


def until(ledger, kind):
    wait_for(
        lambda: any(isinstance(event, kind) for event in ledger.events()),
        timeout=60, what=f"{kind.__name__} in the ledger", last_seen=ledger.path.read_text,
    )  # fmt: skip


def went_on(lab, run, cause):
    first, second = lab.training(run.name, 1)["attempts"]
    assert first["cause"] == cause
    assert first["job_id"] == second["job_id"]
    assert not any(isinstance(event, GivenUp) for event in run.ledger.events()), run.ledger.path.read_text()


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
    os.kill(pid_of_rank_0(noticed), signal.SIGUSR2)
    give(orders, 1, "raise")
    until(crashed.ledger, Ended)
    until(noticed.ledger, Ended)
    time.sleep(OUTAGE_S)  # The fault itself.
    lab.slurm.start_controller()
    went_on(lab, crashed, "crashed")
    went_on(lab, noticed, "preempted")
    lab.until("mine", "the report", lambda row: row["evals"][0]["nll"] is not None, 240)
    assert not work.ledger.history().crashes
