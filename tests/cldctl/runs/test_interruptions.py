"""Two ranks that are killed, signalled and resumed, as real processes of the local executor."""

import random
import signal
import time
from functools import partial

import psutil
import pytest

from cld_core.checkpoint import load
from cld_core.run import RunFolder
from tests.support.paths import MISBEHAVING
from tests.support.tools import (
    SMALL,
    invoke,
    is_gone,
    ranks_of,
    same,
    status,
    wait_ended,
    wait_for,
    wait_step,
)

pytestmark = pytest.mark.slow
# The jobs are processes; the commands, which would take seconds to import torch, need not be.
cldctl = partial(invoke, OMP_NUM_THREADS="1")


def submit(runs, name, *overrides):
    line = f"submit toy --name {name} --cluster local"
    cldctl(line, *SMALL, *MISBEHAVING, *overrides, runs=runs)
    return RunFolder(runs / name)


def test_killed_three_times_a_run_ends_bit_identical(fresh_runs):
    """SIGKILL at three random moments, one of them inside a checkpoint write."""
    settings = ("train.checkpoint_every=50", "train.on_resume=exact")
    chance = random.Random(7)
    run = submit(fresh_runs, "killed", "train.steps=1000000", *settings)
    more = ()
    for kill in range(3):
        floor = max(run.checkpoint_steps(), default=0)
        wait_for(lambda floor=floor: max(run.checkpoint_steps(), default=0) > floor)
        processes = ranks_of(run)
        assert len(processes) == 2
        time.sleep(chance.uniform(0, 0.4))
        if kill % 2:
            wait_for(lambda: list(run.checkpoints.glob(".step_*.tmp")), every=0.0)
        for process in chance.sample(processes, 2):
            process.kill()
        row = wait_ended("killed")
        assert row["state"] == "LOST", row
        if kill == 2:
            more = (f"train.steps={row['step'] + 100}",)
        cldctl("resume killed", *more)
    assert wait_ended("killed")["state"] == "FINISHED"
    whole = (*SMALL, *MISBEHAVING, *settings, *more)
    line = "submit toy --name whole --cluster local --follow"
    cldctl(line, *whole, CLDCTL_TEST_PACE="0")

    whole, killed = (
        load(RunFolder(fresh_runs / name), run.checkpoint_steps()[-1])
        for name in ("whole", "killed")
    )
    assert same(whole, killed), "parameters, average or optimiser state differ"
    assert not list(run.checkpoints.glob(".step_*.tmp")), (
        "what the killed writers left is cleared away"
    )
    row = status("killed")
    assert [entry["cause"] for entry in row["attempts"]] == ["killed"] * 3 + ["finished"]


@pytest.mark.parametrize(("number", "whom"), [(signal.SIGUSR2, "one"), (signal.SIGTERM, "all")])
def test_a_signal_stops_all_ranks_at_the_same_step(fresh_runs, number, whom):
    run = submit(fresh_runs, "mine", "train.steps=1000000", "train.checkpoint_every=1000000")
    processes = wait_for(lambda: len(ranks_of(run)) == 2 and ranks_of(run))
    wait_step(run, 10)
    for process in processes[1:] if whom == "one" else processes:
        process.send_signal(number)
    row = wait_ended("mine")
    assert row["state"] == "STOPPED"
    attempt = row["attempts"][-1]
    assert (attempt["cause"], attempt["detail"]) == ("terminated", number.name)
    assert attempt["last_step"] == row["step"] == row["checkpoint_step"]
    wait_for(lambda: all(map(is_gone, processes)))
    for rank in (0, 1):
        log = next(run.logs.glob(f"*_{rank}_log.out")).read_text()
        assert "Traceback" not in log + next(run.logs.glob(f"*_{rank}_log.err")).read_text()
        assert f"rank {rank} of 2: {attempt['cause']} at step {row['step']}" in log

    steps = row["step"] + 40
    cldctl(f"resume mine train.steps={steps} --follow")
    row = status("mine")
    assert (row["state"], row["step"]) == ("FINISHED", steps)
    assert row["attempts"][-1]["first_step"] == attempt["last_step"]


def test_a_dead_rank_takes_the_others_with_it(fresh_runs):
    run = submit(fresh_runs, "mine", "train.steps=1000000", "train.checkpoint_every=10")
    processes = wait_for(lambda: len(ranks_of(run)) == 2 and ranks_of(run))
    wait_for(run.checkpoint_steps)
    processes[1].kill()
    row = wait_ended("mine")
    assert row["state"] == "FAILED"
    assert row["attempts"][-1]["cause"] == "crashed"
    wait_for(lambda: is_gone(processes[0]))


def test_a_run_survives_its_terminal_and_can_be_cancelled(fresh_runs):
    run = submit(fresh_runs, "mine", "cluster.tasks_per_node=1", "train.steps=1000000")
    wait_step(run, 10)
    job = psutil.Process(int(status("mine")["job_id"]))
    # What a closed terminal and Ctrl-C send to the job's process group.
    for process in (job, *ranks_of(run)):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTSTP):
            process.send_signal(number)
    step = run.progress()["step"]
    wait_step(run, step + 20)
    assert status("mine")["state"] == "RUNNING"
    cldctl("cancel mine")
    row = status("mine")
    assert (row["state"], row["attempts"][-1]["cause"]) == ("CANCELLED", "cancelled")
    assert row["checkpoint_step"] == row["step"]
    assert is_gone(job)
