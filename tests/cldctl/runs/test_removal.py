"""Removing runs: who else may write into them, and how often clusters are asked."""

import os
import time

import pytest

from cld_core.errors import CldError, UsageError
from cld_core.files import write_json
from cld_core.run import Lease
from cld_core.run import lease as leases
from cld_core.run.events import Ended
from cldctl.clusters.slurm.cluster import SlurmCluster
from cldctl.runs import pruning, removal
from tests.support import scheduler
from tests.support.clock import Clock
from tests.support.made_up import run_with
from tests.support.old_runs import over
from tests.support.scripted import trained


@pytest.fixture
def run(tmp_path, scripted):
    return over(tmp_path / "a", "7", 10, 20)


def removed(run):
    removal.remove(removal.plan([run])[0])


def pruned(run):
    pruning.prune(pruning.plan([run], None)[0])


def held(run, **more):
    """A lease of a process on another host; its file looks old, because clocks differ."""
    file = run.leases / "00000001.json"
    owner = {"job_id": "torchrun", "restart": 0, "host": "elsewhere", "pid": 12, "process_started": 1.0}
    write_json(file, {**owner, **more})
    os.utime(file, (1.0, 1.0))
    return file


@pytest.mark.parametrize("act", [removed, pruned])
def test_a_run_that_another_host_trains_without_a_job_is_left_alone(run, monkeypatch, act):
    file = held(run)
    monkeypatch.setattr(leases, "time", Clock(1e6, lambda now: os.utime(file, (now, now))))
    with pytest.raises(UsageError, match=r"job torchrun \(host elsewhere.*(was not|Nothing was) removed\.$"):
        act(run)
    assert run.checkpoint_steps() == [10, 20]


@pytest.mark.parametrize("act", [removed, pruned])
def test_a_run_whose_owner_cannot_be_read_is_left_alone(run, act):
    run.leases.rmdir()
    run.leases.write_text("")
    with pytest.raises(CldError, match=r"lease: whether something writes.*cannot be found out \(Not a directory\)"):
        act(run)
    assert run.checkpoint_steps() == [10, 20]


def test_nobody_waits_for_a_job_that_is_gone(run, monkeypatch):
    held(run, job_id="7")
    monkeypatch.setattr(leases, "time", Clock(1e6, pytest.fail))
    pruned(run)
    assert run.checkpoint_steps() == [20]
    removed(run)
    assert not run.path.exists()


def test_who_is_taken_over_removes_nothing_more(run, monkeypatch):
    planned = pruning.plan([run], None)
    acquire = Lease.acquire

    def overtaken(*words, **how):
        mine = acquire(*words, **how)
        write_json(run.leases / f"{mine.number + 1:08d}.json", {"job_id": "8", "host": "elsewhere", "pid": 1})
        return mine

    monkeypatch.setattr(Lease, "acquire", overtaken)
    with pytest.raises(CldError, match="job 8 on elsewhere has taken over"):
        pruning.prune(planned[0])
    assert run.checkpoint_steps() == [10, 20]


def test_many_runs_cost_one_question(tmp_path, monkeypatch):
    slurm = scheduler.register(monkeypatch, Clock(now=time.time()))
    monkeypatch.setattr(SlurmCluster, "unavailable", classmethod(lambda cls: None))
    runs = []
    for number in range(10):
        run = trained(run_with(tmp_path / f"run-{number}", 10, 20), f"{100 + number}", cluster="slurm")
        run.ledger.append(Ended(attempt=0, cause="crashed", step=20))
        runs.append(run)
    for entry in pruning.plan(runs, None):
        pruning.prune(entry)
    planned = removal.plan(runs)
    asked = slurm.calls["squeue"]
    for entry in planned:
        removal.remove(entry)
    assert slurm.calls["squeue"] == asked
    assert asked <= 4
    assert not any(run.path.exists() for run in runs)
