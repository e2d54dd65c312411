"""Slurm's words, read without a Slurm."""

import pytest

from cldctl.clusters.records import Seen
from cldctl.clusters.slurm import polling


@pytest.mark.parametrize(
    ("word", "phase", "ended"),
    [
        ("REQUEUE_HOLD", "pending", None),
        ("SUSPENDED", "suspended", None),
        ("COMPLETING", "ending", None),
        ("COMPLETED", "gone", None),
        ("CANCELLED by 1000", "gone", "cancelled"),
        ("NODE_FAIL", "gone", "node_failure"),
        ("OUT_OF_MEMORY", "gone", "out_of_memory"),
    ],
)
def test_phases(word, phase, ended):
    seen = polling.seen_of(word)
    assert (seen.phase, seen.ended) == (phase, ended)


def test_squeue_and_sacct():
    text = "12|RUNNING|n[1-2]|None\n13_4|PENDING||Priority\n13_5|COMPLETED|n3|None\n14|PENDING||None\nrubbish\n"
    assert polling.parse_squeue(text) == {
        "12": Seen("running", node="n[1-2]", word="RUNNING"),
        "13_4": Seen("pending", reason="Priority", word="PENDING"),
        "13_5": Seen("gone", node="n3", word="COMPLETED"),
        "14": Seen("pending", word="PENDING"),
    }
    text = "12|PREEMPTED|n1\n12|NODE_FAIL|n1\n12|CANCELLED by 0|n2\n14|COMPLETED|n1\n"
    assert polling.parse_sacct(text) == {"12": ["PREEMPTED", "NODE_FAIL", "CANCELLED"], "14": ["COMPLETED"]}


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("slurmstepd-n1: error: *** STEP 9.0 ON n1 CANCELLED AT 2026-11-25T00:57:43 ***", None),
        ("slurmstepd-n1: error: *** JOB 9 ON n1 CANCELLED AT 2026-11-25T00:57:43 ***", "cancelled"),
        ("hint: if you run out of memory lower the batch", None),
        ("srun: error: n1: task 0: Out Of Memory", "out_of_memory"),
        ("slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-25T00:32:06 DUE TO PREEMPTION ***", "preempted"),
        ("error: *** STEP 2.0 ON n1 CANCELLED AT 2026-11-25T00:31:37 DUE TO JOB REQUEUE ***", "requeued"),
        ("error: *** JOB 3 ON n1 CANCELLED AT 2026-11 DUE TO NODE FAILURE, SEE SLURMCTLD LOG ***", "node_failure"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=4.0", "out_of_memory"),
    ],
)
def test_notices(log, cause):
    assert polling.notice_in(f"before\n{log}\nafter") == cause
