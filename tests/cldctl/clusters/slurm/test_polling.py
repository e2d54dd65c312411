"""Slurm's words, read without a Slurm."""

import pytest

from cld_core.run.events import JobRef
from cldctl.clusters.base import Seen
from cldctl.clusters.slurm import client, polling
from cldctl.clusters.slurm.client import Answer
from cldctl.clusters.slurm.cluster import SlurmCluster


@pytest.mark.parametrize(
    ("word", "phase", "ended"),
    [
        ("PENDING", "pending", None),
        ("REQUEUE_HOLD", "pending", None),
        ("RUNNING", "running", None),
        ("CONFIGURING", "running", None),
        ("SUSPENDED", "suspended", None),
        ("COMPLETING", "ending", None),
        ("COMPLETED", "gone", None),
        ("CANCELLED by 1000", "gone", "cancelled"),
        ("CANCELLED+", "gone", "cancelled"),
        ("PREEMPTED", "gone", "preempted"),
        ("NODE_FAIL", "gone", "node_failure"),
        ("FAILED", "gone", "crashed"),
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
    assert polling.notice_in(f"before\n{log}\nafter") == cause


class Clients:
    """Slurm's clients: what each prints, or None for no answer; ``asked`` has their names."""

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def __call__(self, command, stdin=""):
        self.asked.append(command[0])
        text = self.answers.get(command[0], "")
        return Answer(1, "Unable to contact slurm controller", away=True) if text is None else Answer(0, text)


@pytest.fixture
def clients(monkeypatch):
    monkeypatch.setattr(polling, "_last", polling.Poll(frozenset(), {}, 0.0))
    clients = Clients()
    monkeypatch.setattr(client, "run", clients)
    return clients


def job(job_id):
    return JobRef(cluster="slurm", job_id=job_id)


def phases(jobs, **how):
    survey = SlurmCluster().survey(jobs, **how)
    return [survey.of(job).phase for job in jobs], survey.problem


def test_one_squeue_and_one_sacct_for_all(clients):
    clients.answers = {"squeue": "1|RUNNING|n1|None\n2_0|PENDING||Priority\n", "sacct": "3|TIMEOUT|n1\n4_7|FAILED|n1\n"}
    survey = SlurmCluster().survey([job("1"), job("2_0"), job("3"), job("4_7"), job("5")], max_age_s=0)
    assert [survey.of(job(name)).word for name in ("1", "2_0", "3", "4_7", "5")] == [
        *("RUNNING", "PENDING", "TIMEOUT", "FAILED", ""),
    ]
    assert survey.of(job("5")).phase == "gone", "nobody remembers it"
    assert clients.asked == ["squeue", "sacct"]


def test_an_answer_is_used_again_while_it_is_young_and_complete(clients):
    clients.answers = {"squeue": "1|RUNNING|n1|None\n2|RUNNING|n1|None\n"}
    assert phases([job("1"), job("2")]) == (["running"] * 2, None)
    clients.answers = {"squeue": ""}
    assert phases([job("2")]) == (["running"], None)
    assert phases([job("2")], max_age_s=0) == (["gone"], None)
    clients.answers = {"squeue": "1|PENDING||None\n"}
    assert phases([job("1"), job("2")]) == (["pending", "gone"], None), "it was not asked about job 1 last time"


def test_accounting_is_not_asked_about_jobs_whose_end_is_known(clients):
    """A slurmdbd that hangs must not keep those waiting whose runs finished long ago."""
    assert phases([job("1")], settled=[job("1")], max_age_s=0) == (["gone"], None)
    assert clients.asked == ["squeue"]
    phases([job("1"), job("2")], settled=[job("1")], max_age_s=0)
    assert clients.asked == ["squeue", "squeue", "sacct"]


def test_a_controller_that_is_away_is_said_to_be(clients):
    clients.answers = {"squeue": None, "sacct": "1|COMPLETED|n1\n"}
    assert phases([job("1"), job("2")]) == (["gone", "unknown"], polling.AWAY)


@pytest.mark.parametrize("word", ["PREEMPTED", "NODE_FAIL"])
def test_without_squeue_a_job_that_slurm_starts_again_may_be_alive(word, clients):
    """Accounting hears of a start later than of the end of the one before."""
    clients.answers = {"squeue": None, "sacct": f"1|{word}|n1\n2|CANCELLED by 0|n1\n"}
    assert phases([job("1"), job("2")]) == (["unknown", "gone"], polling.AWAY)


@pytest.mark.parametrize("word", ["PREEMPTED", "NODE_FAIL"])
def test_with_squeue_a_job_that_is_not_in_the_queue_has_ended(word, clients):
    clients.answers = {"squeue": "", "sacct": f"1|{word}|n1\n2|CANCELLED by 0|n1\n"}
    assert phases([job("1"), job("2")]) == (["gone", "gone"], None)
