"""Evaluations as arrays on a real Slurm: chained, throttled, preempted, killed."""

import json
import re
import shutil
import signal

from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import Failed
from cldctl.clusters.local import _MODULE as MODULE
from tests.support.tools import wait_for

from .lab import ENDLESS

SHARDS = 4
# Of a chunk of 1,024 rows.
BATCHES = 4
BATCH = 256


def test_a_chained_evaluation_waits_for_a_preempted_training(lab):
    """Also though another job, a successor, finishes the training. A refused evaluation leaves
    nothing behind."""
    settings = ("train.steps=300", "cluster.partition=cancel", "cluster.successor=true")
    lab.cldctl("submit toy --name mine --eval elbo", *ENDLESS, *settings)
    lab.training("mine")
    lab.slurm.preempt_all(1)
    row = lab.until("mine", "a report", lambda row: row["evals"][0]["nll"] is not None, 150)
    assert (row["state"], row["step"]) == ("FINISHED", 300)
    assert [entry["cause"] for entry in row["attempts"]] == ["preempted", "finished"]
    evals = RunFolder(lab.runs / "mine").evals
    before = sorted(evals.iterdir())
    nowhere = "eval.seed=5 cluster.partition=nowhere --sweep eval.elbo.velocities=1,2"
    assert "invalid partition" in lab.cldctl(f"eval mine --elbo {nowhere}", code=4).stderr
    assert sorted(evals.iterdir()) == before


def test_a_disturbed_evaluation_ends_with_the_numbers_of_a_quiet_one(lab):
    """Tasks on a failing node die, another one is killed, and the rest is preempted."""
    run = lab.submit("mine", "train.steps=20")
    lab.ended("mine")
    shutil.copytree(run.path, lab.runs / "quiet")
    settings = (
        f"eval.samples={SHARDS * BATCHES * BATCH}",
        f"eval.batch_size={BATCH}",
        "eval.elbo.rtol=0.05",
    )
    lab.more["CLDCTL_TEST_PACE"] = "1.5"  # Long enough to be met at work, on a fast machine, too.
    lab.cldctl(f"eval mine --elbo --shards {SHARDS}", *settings)
    name = lab.status("mine")["evals"][0]["id"]
    evaluation = run.evals / name

    def done():
        """Examples that each shard, which is a chunk, has computed and saved."""
        return Evaluation(evaluation).rows("elbo").lengths()

    wait_for(
        lambda: sum(0 < n < BATCHES * BATCH for n in done().values()) >= 2,
        timeout=90,
        what="two shards to begin",
    )
    lab.slurm.kill_node("n2")
    _kill_a_task(lab.slurm)  # after the node: what dies on a failing node does not count as a crash
    ledger = Evaluation(evaluation).ledger
    wait_for(lambda: ledger.history().crashes, timeout=60, what="the crash in the ledger")
    wait_for(
        lambda: sum(done().values()) > 2 * BATCHES * BATCH,
        timeout=90,
        what="more shards",
        last_seen=done,
    )
    lab.slurm.restore_node("n2")
    lab.slurm.preempt_all(1)
    lab.until("mine", "the report", lambda row: row["evals"][0]["nll"] is not None, 240)

    lab.more["CLDCTL_TEST_PACE"] = "0"
    lab.cldctl(f"eval quiet --elbo --shards {SHARDS} --cluster debug", *settings)
    assert _elbo(evaluation) == _elbo(RunFolder(lab.runs / "quiet").evals / name)
    logs = (evaluation / "logs").glob("*.out")
    computed = [re.findall(r"^elbo: row (\d+) of", log.read_text(), re.M) for log in logs]
    again = sum(map(len, computed)) - SHARDS * BATCHES
    # Fewer than were saved may have been printed: a line can be lost with the node or the process.
    assert again <= 8, "each disturbed task computes at most its current batch again"
    assert all(
        event.code != 0
        for event in ledger.events()
        if isinstance(event, Failed) and event.kind == "crash"
    )


def _kill_a_task(slurm):
    """SIGKILL to a process that computes a shard, as the OOM killer would."""

    def killed():
        tasks = slurm.processes.in_jobs(MODULE, "SLURM_ARRAY_TASK_ID", "SLURM_PROCID")
        for task in tasks[:1]:
            task.send_signal(signal.SIGKILL)
        return bool(tasks)

    wait_for(killed, timeout=60, what="a task of the array to kill")


def _elbo(evaluation):
    return json.loads((evaluation / "report.json").read_text())["elbo"]
