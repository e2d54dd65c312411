"""Slurm's words, read without a Slurm."""

import time
from typing import Any

import pytest

from cld_core.run import Attempt, RunFolder
from cldctl.cluster import inside, slurm
from cldctl.cluster.inside import crashes_in_a_row
from cldctl.cluster.slurm import Seen
from cldctl.cluster.state import state_of


@pytest.mark.parametrize(
    ("word", "phase"),
    [
        ("PENDING", "pending"),
        ("REQUEUE_HOLD", "pending"),
        ("RUNNING", "running"),
        ("COMPLETING", "running"),
        ("CANCELLED by 1000", "gone"),
        ("CANCELLED+", "gone"),
        ("PREEMPTED", "gone"),
        ("OUT_OF_MEMORY", "gone"),
    ],
)
def test_phases(word, phase):
    assert slurm.seen_of(word).phase == phase


def test_squeue_and_sacct():
    found = slurm.parse_squeue("12|RUNNING|n[1-2]|None\n13_4|PENDING||Priority\n13_5|COMPLETED|n3|None\nrubbish\n")
    assert found == {
        "12": Seen("running", "RUNNING", "n[1-2]"),
        "13_4": Seen("pending", "PENDING", "", "Priority"),
        "13_5": Seen("gone", "COMPLETED", "n3"),
    }
    text = "12|PREEMPTED|n1\n12|NODE_FAIL|n1\n12|CANCELLED by 0|n2\n14|COMPLETED|n1\n"
    assert slurm.parse_sacct(text) == {"12": ["PREEMPTED", "NODE_FAIL", "CANCELLED"], "14": ["COMPLETED"]}


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("slurmstepd-n1: error: *** STEP 9.0 ON n1 CANCELLED AT 2026-11-25T00:57:43 ***", None),
        ("slurmstepd-n1: error: *** JOB 9 ON n1 CANCELLED AT 2026-11-25T00:57:43 ***", "cancelled"),
        ("hint: if you run out of memory lower the batch", None),
        ("srun: error: n1: task 0: Out Of Memory", "out_of_memory"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory"),
        ("slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-25T00:32:06 DUE TO PREEMPTION ***", "preempted"),
        ("error: *** JOB 7 ON n1 CANCELLED AT 2026-11-25T00:32:06 DUE TO TIME LIMIT ***", "timeout"),
        ("error: *** STEP 2.0 ON n1 CANCELLED AT 2026-11-25T00:31:37 DUE TO JOB REQUEUE ***", "requeued"),
        (
            "error: *** JOB 3 ON n1 CANCELLED AT 2026-11-25T00:31:37 DUE TO NODE FAILURE, SEE SLURMCTLD LOG ***",
            "node_failure",
        ),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=4.0", "out_of_memory"),
        (
            "slurmstepd-n1: error: Exceeded job memory limit\nerror: *** STEP 1.0 ON n1 CANCELLED AT 2026 ***",
            "out_of_memory",
        ),
        ("Traceback (most recent call last):", None),
    ],
)
def test_notices(log, cause):
    assert slurm.notice_in(f"before\n{log}\nafter") == cause


def attempt(number: int, cause: str | None, first: int, ended: float | None = 5.0) -> Attempt:
    return Attempt(attempt=number, job_id="7", started=1.0, first_step=first, ended=ended, cause=cause)


def ledger(*ends: tuple[str, int]) -> list[dict[str, Any]]:
    """Events of attempts that ended for a cause and had begun at a step."""
    pairs = [
        (
            {"event": "started", "time": 1.0, "attempt": number, "job_id": "7", "step": first},
            {"event": "ended", "time": 2.0, "attempt": number, "cause": cause},
        )
        for number, (cause, first) in enumerate(ends)
    ]
    return [event for pair in pairs for event in pair]


def test_crashes_count_while_nothing_was_saved_between_them():
    crash, early = "crashed", {"event": "died_early", "time": 3.0, "job_id": "7", "reason": "no port"}
    assert crashes_in_a_row(ledger((crash, 0), (crash, 0), (crash, 0))) == 3
    assert crashes_in_a_row(ledger((crash, 0), (crash, 100), (crash, 100))) == 2
    assert crashes_in_a_row(ledger((crash, 0), ("preempted", 0), (crash, 0))) == 1
    assert crashes_in_a_row(ledger(("finished", 0))) == 0
    assert crashes_in_a_row([*ledger((crash, 0), ("preempted", 50)), early, early]) == 2
    assert crashes_in_a_row([*ledger((crash, 0)), early]) == 2
    assert crashes_in_a_row([*ledger((crash, 0)), early, *ledger((crash, 0), (crash, 9))[2:]]) == 1


def test_a_time_limit_before_the_first_step_is_not_waited_for_again(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    requeued = []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm, "requeue", requeued.append)
    for attempt_number, reached in ((0, 0), (1, 30)):
        folder.ledger.append("started", attempt=attempt_number, job_id="7", step=0)
        folder.ledger.append("ended", attempt=attempt_number, cause="timeout", step=reached)
        inside.go_on(folder, "timeout")
    assert requeued == ["7"]
    assert [event["event"] for event in folder.ledger.events()] == [
        *("started", "ended", "given_up"),
        *("started", "ended", "requeued"),
    ]


SUBMITTED = {"event": "submitted", "time": 0.0, "job_id": "7", "cluster": "slurm", "host": "login"}


@pytest.mark.parametrize(
    ("cause", "seen", "more", "state"),
    [
        (None, Seen("running", "RUNNING"), [], "RUNNING"),
        (None, Seen("pending", "PENDING"), [], "REQUEUED"),
        (None, Seen("unknown"), [], "RUNNING"),
        (None, Seen("gone", "CANCELLED"), [], "CANCELLED"),
        (None, Seen("gone", "OUT_OF_MEMORY"), [], "FAILED"),
        (None, Seen("gone", "NODE_FAIL"), [], "LOST"),
        ("preempted", Seen("pending", "PENDING"), [], "REQUEUED"),
        ("preempted", Seen("running", "RUNNING"), [], "REQUEUED"),
        ("preempted", Seen("gone", "PREEMPTED"), [], "STOPPED"),
        ("timeout", Seen("running", "COMPLETING"), [{"event": "requeued", "time": 6.0}], "REQUEUED"),
        ("cancelled", Seen("running", "COMPLETING"), [], "CANCELLED"),
        ("crashed", Seen("running", "RUNNING"), [], "RUNNING"),
        ("preempted", Seen("gone", "CANCELLED"), [], "CANCELLED"),
        ("preempted", Seen("gone", "FAILED"), [{"event": "given_up", "time": 6.0, "reason": "3 crashes"}], "FAILED"),
        ("crashed", Seen("gone", "FAILED"), [{"event": "given_up", "time": 6.0, "reason": "3 crashes"}], "FAILED"),
        ("finished", Seen("running", "COMPLETING"), [], "FINISHED"),
    ],
)
def test_states(cause, seen, more, state):
    attempts = [attempt(0, cause, 0, None if cause is None else 5.0)]
    assert state_of([SUBMITTED, *more], attempts, lambda job: seen)[0] == state


def test_a_job_that_has_not_begun():
    assert state_of([SUBMITTED], [], lambda job: Seen("pending", "PENDING"))[0] == "PENDING"
    assert state_of([SUBMITTED], [], lambda job: Seen("gone", "CANCELLED"))[0] == "CANCELLED"
    assert state_of([SUBMITTED], [], lambda job: Seen("gone", "FAILED"))[0] == "FAILED"


def test_a_successor_counts_when_its_turn_has_come():
    successor = {**SUBMITTED, "job_id": "8", "successor_of": "7"}
    seen = {"7": Seen("running", "RUNNING"), "8": Seen("pending", "PENDING")}
    running = [attempt(0, None, 0, None)]
    assert state_of([SUBMITTED, successor], running, lambda job: seen[job["job_id"]])[0] == "RUNNING"
    seen["7"] = Seen("gone", "PREEMPTED")
    stopped = [attempt(0, "preempted", 0)]
    assert state_of([SUBMITTED, successor], stopped, lambda job: seen[job["job_id"]])[0] == "REQUEUED"
    finished = [attempt(0, "finished", 0)]
    assert state_of([SUBMITTED, successor], finished, lambda job: seen[job["job_id"]])[0] == "FINISHED"


def test_a_submission_that_made_no_job_can_be_resumed():
    now = time.time()
    requested = {"event": "requested", "time": now, "steps": 5}
    assert state_of([requested], [], lambda job: Seen("gone"))[0] == "PENDING"
    refused = {"event": "not_submitted", "time": now, "reason": "sbatch refused"}
    assert state_of([requested, refused], [], lambda job: Seen("gone")) == ("FAILED", "sbatch refused")
    state, reason = state_of([{**requested, "time": now - 60}], [], lambda job: Seen("gone"))
    assert (state, reason) == ("FAILED", "it was never handed to the scheduler: the submission was interrupted")


def test_a_job_that_could_not_begin_says_why():
    why = {"event": "not_begun", "time": 1.0, "job_id": "7", "reason": "none of its 3 checkpoints is whole"}
    assert state_of([SUBMITTED, why], [], lambda job: Seen("gone", "FAILED")) == ("FAILED", why["reason"])


def test_a_finished_run_that_slurm_started_again_stays_finished():
    requested = {"event": "requested", "time": -1.0, "steps": 5}
    skipped = {"event": "skipped", "time": 9.0, "job_id": "7", "reason": "finished"}
    finished = [attempt(0, "finished", 0)]
    assert state_of([requested, SUBMITTED, skipped], finished, lambda job: Seen("gone", "COMPLETED"))[0] == "FINISHED"
