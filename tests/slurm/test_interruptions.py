"""Everything that a cluster can do to a run, done by a real Slurm: each case ends as docs/slurm.md promises."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from cld_core.run import RunFolder
from cld_core.run.events import DiedEarly, GivenUp, RankFailed, TurnedAway

from .lab import ENDLESS, Lab, give
from .polling import wait_until


def went_on(lab: Lab, name: str, cause: str, attempt: int = 1, *, saved: bool = True) -> None:
    """The run trains again automatically, from the step at which the last attempt ended, with the right cause."""
    row = lab.training(name, attempt)
    before, now = row["attempts"][attempt - 1 :]
    assert before["cause"] == cause, row
    if saved:
        assert now["first_step"] == before["last_step"] > 0, "a step was lost, or trained twice"
    assert now["job_id"] == before["job_id"], "it is the same job"


@pytest.mark.parametrize("user_signal", [True, False], ids=["user signal", "SIGTERM only"])
def test_preempted_with_grace(lab: Lab, user_signal: bool) -> None:
    lab.slurm.configure(user_signal=user_signal, grace_time=10)
    lab.submit("mine")
    lab.training("mine")
    lab.slurm.preempt_all(1)
    went_on(lab, "mine", "preempted")


def test_preempted_without_grace(lab: Lab) -> None:
    lab.submit("mine", partition="low0")
    lab.training("mine")
    lab.slurm.preempt_all(1)
    went_on(lab, "mine", "preempted")


def test_after_a_final_preemption_a_successor_restarts_the_run(lab: Lab) -> None:
    lab.submit("mine", "cluster.successor=true", partition="cancel")
    row = lab.training("mine")
    lab.slurm.preempt_all(1)
    again = lab.training("mine", attempt=1)
    assert again["attempts"][0]["cause"] == "preempted"
    assert again["attempts"][1]["first_step"] == again["attempts"][0]["last_step"]
    assert again["job_id"] != row["job_id"]
    lab.slurm.run(["scancel", again["job_id"]])
    assert lab.ended("mine")["state"] == "CANCELLED", "its own successor does not restart it"
    lab.slurm.wait_idle(60)


def test_after_a_final_preemption_without_a_successor_the_run_waits_to_be_resumed(lab: Lab) -> None:
    lab.submit("mine", partition="cancel")
    lab.training("mine")
    lab.slurm.preempt_all(1)
    row = lab.ended("mine")
    assert (row["state"], row["attempts"][0]["cause"]) == ("STOPPED", "preempted")
    lab.cldctl("resume", "mine")
    assert lab.training("mine", attempt=1)["attempts"][1]["first_step"] == row["checkpoint_step"]


def test_time_limit(lab: Lab) -> None:
    run = lab.submit("mine")
    row = lab.training("mine")
    lab.slurm.expire(row["job_id"], 40)
    went_on(lab, "mine", "timeout")
    assert run.ledger.history().requeued_attempts, "Slurm does not do that automatically"


def test_node_failure(lab: Lab) -> None:
    lab.submit("mine")
    row = lab.training("mine", steps=250)
    lab.slurm.kill_node(row["host"] if row["host"] in ("n1", "n2") else "n2")
    went_on(lab, "mine", "node_failure", saved=False)
    first, second = lab.status("mine")["attempts"]
    assert second["first_step"] % 200 == 0
    assert (first["last_step"] or 0) - second["first_step"] <= 200 + 100, "at most checkpoint_every steps are lost"


@pytest.mark.parametrize("what", ["raise", "die"])
def test_a_rank_that_crashes(lab: Lab, orders: Path, what: str) -> None:
    run = lab.submit("mine")
    lab.training("mine", steps=250)
    give(orders, 1, what)
    went_on(lab, "mine", "crashed", saved=False)
    (failed,) = [event for event in run.ledger.events() if isinstance(event, RankFailed)]
    assert (failed.rank, failed.host) == (1, "n2"), "the other rank failed because of this one"


def test_a_rank_dies_while_the_first_one_is_busy(lab: Lab, orders: Path) -> None:
    """Rank 0 is killed by srun before it can report anything; `set -e` in the setup changes nothing."""
    lab.submit("mine", "cluster.setup=[set -euo pipefail]")
    lab.training("mine", steps=250)
    give(orders, 0, "nap")
    give(orders, 1, "die")
    went_on(lab, "mine", "crashed", saved=False)


def test_a_bug_is_not_retried(lab: Lab, orders: Path) -> None:
    give(orders, 0, "always bug")
    lab.submit("mine", "cluster.successor=true")
    lab.ended("mine")
    lab.slurm.wait_idle(60)
    row = lab.status("mine")
    assert (row["state"], row["reason"]) == ("FAILED", "TypeError: this rank has a bug")
    assert len(row["attempts"]) == 1, "its successor does not retry it either"


def test_crashes_in_a_row_are_given_up(lab: Lab, orders: Path) -> None:
    give(orders, 0, "always raise")
    run = lab.submit("mine", "train.max_retries=1")
    row = lab.ended("mine", timeout=120)
    assert row["state"] == "FAILED"
    assert [entry["cause"] for entry in row["attempts"]] == ["crashed", "crashed"]
    assert "2 crashes in a row" in row["reason"]
    assert isinstance(run.ledger.events()[-1], GivenUp)


def test_a_start_that_dies_before_it_trains(lab: Lab, orders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python itself exits, only in the ranks of the second start."""
    (orders / "sitecustomize.py").write_text(
        "import os, pathlib\n"
        "broken = pathlib.Path(__file__).with_name('broken')\n"
        "if 'SLURM_PROCID' in os.environ and 'SLURM_STEP_ID' in os.environ and broken.exists():\n"
        "    os._exit(1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(orders), prepend=os.pathsep)
    run = lab.submit("mine")
    row = lab.training("mine")
    (orders / "broken").touch()
    lab.slurm.run(["scontrol", "requeue", row["job_id"]])
    wait_until(
        lambda: any(isinstance(event, DiedEarly) for event in run.ledger.events()),
        timeout=60, what="the second start to die", last_seen=lambda: run.ledger.path.read_text(),
    )  # fmt: skip
    (orders / "broken").unlink()
    went_on(lab, "mine", "requeued")


def test_out_of_memory(lab: Lab, orders: Path) -> None:
    lab.submit("mine", "cluster.mem_gb=1.5")
    lab.training("mine", steps=250)
    give(orders, 1, "hog")
    went_on(lab, "mine", "out_of_memory", saved=False)


def test_a_rank_that_hangs(lab: Lab, orders: Path) -> None:
    run = lab.submit("mine", "train.hang_timeout_s=20")
    lab.training("mine", steps=250)
    give(orders, 1, "hang")
    went_on(lab, "mine", "crashed", saved=False)
    log = (run.logs / f"{lab.status('mine')['job_id']}_0_log.err").read_text()
    assert "Timeout" in log
    assert "loop.py" in log, "the stacks are in the log"
    assert "train.hang_timeout_s" in lab.status("mine")["attempts"][0]["detail"]


def test_a_refused_submission_leaves_nothing(lab: Lab) -> None:
    refused = lab.cldctl("submit", "toy", *ENDLESS, "cluster.partition=nowhere", "--name", "mine", code=4)
    assert "invalid partition" in refused.stderr
    assert not [path for path in lab.runs.glob("*") if path.name != ".changes"]


@pytest.mark.parametrize("how", ["scancel", "cldctl"])
def test_cancelled(lab: Lab, how: str) -> None:
    lab.submit("mine")
    row = lab.training("mine")
    if how == "scancel":
        lab.slurm.run(["scancel", row["job_id"]])
    else:
        said = lab.cldctl("cancel", "mine").stderr
        assert f"last checkpoint: step {lab.status('mine')['attempts'][0]['last_step']}" in said
    row = lab.ended("mine")
    assert (row["state"], row["attempts"][0]["cause"]) == ("CANCELLED", "cancelled")
    assert row["checkpoint_step"] == row["attempts"][0]["last_step"], "it saved before it ended"
    lab.slurm.wait_idle(60)
    lab.cldctl("resume", "mine")
    assert lab.training("mine", attempt=1)["attempts"][1]["first_step"] == row["checkpoint_step"]


def test_requeued_by_an_administrator(lab: Lab) -> None:
    lab.submit("mine")
    row = lab.training("mine")
    lab.slurm.run(["scontrol", "requeue", row["job_id"]])
    went_on(lab, "mine", "requeued")


def test_the_controller_is_restarted_in_the_middle(lab: Lab) -> None:
    lab.submit("mine")
    lab.training("mine")
    lab.slurm.kill_controller()
    away = lab.cldctl("status", "mine")
    assert "slurmctld does not answer" in away.stderr
    assert re.search(r"RUNNING as of \d+ ?s ago", away.stdout)
    refused = lab.cldctl("resume", "--yes", code=4)
    assert "slurmctld does not answer" in refused.stderr
    step, as_of = (lab.status("mine")[key] for key in ("step", "as_of"))
    assert time.time() - 60 < as_of <= time.time()
    lab.slurm.start_controller()
    row = lab.until("mine", "to go on", lambda row: row["state"] == "RUNNING" and row["step"] > step + 20)
    assert len(row["attempts"]) == 1
    assert row["as_of"] is None


def test_a_finished_run_that_slurm_starts_again_ends_at_once(lab: Lab) -> None:
    run = lab.submit("mine", "train.steps=400")
    assert lab.ended("mine")["state"] == "FINISHED"
    job = lab.status("mine")["job_id"]
    lab.slurm.wait_end(job)
    lab.slurm.run(["scontrol", "requeue", job])
    wait_until(lambda: isinstance(run.ledger.events()[-1], TurnedAway), timeout=60, what="the second start")
    assert lab.slurm.wait_end(job) == "COMPLETED"
    row = lab.status("mine")
    assert (row["state"], len(row["attempts"])) == ("FINISHED", 1)


def test_exact_over_a_preemption_ends_bit_identical(lab: Lab) -> None:
    from cld_core.checkpoint.load import load
    from tests.support.tools import same

    lab.slurm.configure(user_signal=True)
    cut = lab.submit("cut")
    lab.training("cut")
    lab.slurm.preempt_all(1)
    went_on(lab, "cut", "preempted")
    lab.cldctl("cancel", "cut")
    steps = lab.ended("cut")["checkpoint_step"]
    whole = lab.submit("whole", f"train.steps={steps}", partition="high")
    assert lab.ended("whole", 200)["state"] == "FINISHED"
    assert same(load(whole, steps), load(cut, steps))


def test_elastic(lab: Lab) -> None:
    """2 nodes, then 1, then 2 again, with the same global batch."""
    run = lab.submit("mine", "train.steps=200", "train.checkpoint_every=100")
    assert lab.ended("mine")["state"] == "FINISHED"
    lab.cldctl("resume", "mine", "train.steps=400", "cluster.nodes=1")
    lab.until("mine", "400 steps", lambda row: row["state"] == "FINISHED" and row["step"] == 400)
    lab.cldctl("resume", "mine", "train.steps=600", "cluster.nodes=2")
    row = lab.until("mine", "600 steps", lambda row: row["state"] == "FINISHED" and row["step"] == 600)
    assert [entry["first_step"] for entry in row["attempts"]] == [0, 200, 400]
    assert RunFolder(run.path).recipe().train.batch_size == 16


def test_two_people_resume_at_the_same_moment(lab: Lab) -> None:
    import threading

    run = lab.submit("mine")
    lab.training("mine")
    lab.cldctl("cancel", "mine")
    lab.ended("mine")
    lab.slurm.wait_idle(60)
    codes: list[int] = []
    people = [
        threading.Thread(target=lambda: codes.append(lab.cldctl("resume", "mine", code=None).returncode))
        for _ in range(2)
    ]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert sorted(codes) == [0, 2], "one got the run, the other one was refused"
    assert len(run.ledger.history().jobs) == 2


def test_without_accounting_states_are_still_right(lab: Lab) -> None:
    lab.slurm.configure(accounting=False)
    lab.submit("mine", "train.steps=300")
    assert lab.ended("mine")["state"] == "FINISHED"
    lab.submit("other")
    row = lab.training("other")
    lab.slurm.run(["scancel", row["job_id"]])
    assert lab.ended("other")["state"] == "CANCELLED"
