"""A task of Slurm from inside: signals, ends of attempts, wishes; and the answers of clients."""

import contextlib
import functools
import time
from dataclasses import replace

import pytest

from cld_core.run.events import JobRef
from cld_core.run.history import Attempt
from cld_core.stop import StopCode
from cldctl import clusters
from cldctl.clusters.base import Answer, Nodes, Requeue, SchedulerAway
from cldctl.clusters.slurm import client, job_env
from cldctl.clusters.slurm.client import Reply
from cldctl.clusters.slurm.cluster import SlurmCluster
from tests.support.scheduler import clients

CONTROLLER = "sbatch: error: Unable to contact slurm controller (connect failure)"


def test_a_client_that_does_not_answer_is_away(monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
    answer = client.run(["sleep", "60"])
    assert (answer.code, answer.away) == (-1, True)
    assert client.run(["no-such-client"]).away is False
    monkeypatch.setattr(
        client,
        "run",
        lambda command, stdin="": Reply(8, f"scancel: error: {CONTROLLER}", away=True),
    )
    with pytest.raises(
        SchedulerAway, match=r"slurmctld does not answer .*\. Try again when it does\."
    ):
        SlurmCluster().cancel([JobRef(cluster="slurm", job_id="7")])


@pytest.mark.parametrize(
    ("file", "variable", "code", "name"),
    [
        ("", "", 1, "local"),
        (__file__, "", 1, "slurm"),
        ("", "/elsewhere", 1, "slurm"),
        ("", "", 0, "slurm"),
    ],
)
def test_clients_alone_are_not_the_default(monkeypatch, tmp_path, file, variable, code, name):
    """A configuration makes Slurm one: in its usual place, in the variable, or with the controller
    that answers."""
    clients(tmp_path, monkeypatch, f"exit {code}")
    monkeypatch.setattr(client, "_CONFIGURATIONS", (file,))
    monkeypatch.setenv("SLURM_CONF", variable)
    client.has_controller.cache_clear()
    assert SlurmCluster.unavailable() is None
    assert clusters.default().name == name
    client.has_controller.cache_clear()


NOTICE = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-25T00:32:06 DUE TO {} ***\n"
SCANCEL = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-25T00:32:06 ***\n"
# Of an attempt whose batch script was killed.
KILLED = "slurmstepd-n1: error: *** STEP 7.0 ON n1 FAILED (non-zero exit code) ***\n"


@pytest.fixture
def logs(tmp_path, monkeypatch):
    for name in (
        "SLURM_ARRAY_JOB_ID",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_JOB_START_TIME",
        "SLURM_JOB_END_TIME",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"JOB_ID": "7", "RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("CLDCTL_SIGNAL_S", "60")
    monkeypatch.setattr(job_env, "_NOTICE_WITHIN_S", 0.0)
    return tmp_path


def ending(reason):
    return {"JobState": "COMPLETING", "Reason": reason}


def in_seconds(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))


def test_who_it_is(logs, monkeypatch):
    job = SlurmCluster().current_job(logs)
    assert (job.ref.job_id, job.ref.restarts, job.restart, job.node) == ("7", True, 1, "n1")
    assert job.log == logs / "7_0_log.err"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "6")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    task = SlurmCluster().current_job(logs)
    assert (task.ref.job_id, task.restart, task.log) == ("6_2", 0, logs / "6_2_0_log.err")


@pytest.mark.parametrize(
    ("code", "known", "log", "cause"),
    [
        (StopCode.USR2, {"PreemptTime": "2026-11-25T00:00:00"}, "", "preempted"),
        (StopCode.USR2, {"EndTime": 100}, "", "timeout"),
        (StopCode.TERM, {}, NOTICE.format("TIME LIMIT"), "timeout"),
        (StopCode.TERM, {"Restarts": "2"}, NOTICE.format("NODE FAILURE"), "node_failure"),
        (StopCode.TERM, {"Restarts": "2"}, "", "requeued"),
        (StopCode.TERM, {"Restarts": "1", "JobState": "COMPLETING"}, SCANCEL, "cancelled"),
        (StopCode.USR2, {"EndTime": 200}, NOTICE.format("PREEMPTION"), "preempted"),
        # By a person.
        (StopCode.USR2, {"EndTime": 200}, "", None),
        (StopCode.TERM, ending("RaisedSignal:9(Killed)"), "", "killed"),
        (StopCode.TERM, ending("NonZeroExitCode"), "", "killed"),
        (StopCode.TERM, ending("AssocMaxJobsLimit"), "", None),
        # In a container without clients.
        (StopCode.TERM, {}, KILLED, "killed"),
        (StopCode.TERM, ending("TimeLimit"), "", "timeout"),
        (StopCode.TERM, {"JobState": "RUNNING"}, "", None),
    ],
)
def test_what_a_signal_means(logs, monkeypatch, code, known, log, cause):
    times = {name: in_seconds(value) for name, value in known.items() if name == "EndTime"}
    times |= {"StartTime": in_seconds(-10)} if times else {}
    job_facts = client.facts({**known, **times}.items())
    monkeypatch.setattr(client, "show_job", lambda *_: job_facts)
    job = SlurmCluster().current_job(logs)
    job.log.write_text(f"{NOTICE.format('JOB REQUEUE')}{log}")
    assert job.cause_of(code, len(NOTICE.format("JOB REQUEUE"))) == cause, (
        "notices of earlier starts do not count"
    )


def attempt(**changes):
    about = {"attempt": 3, "job_id": "5", "time": 1.0, "step": 0, "log_offset": 2, "restart": 1}
    return Attempt(**{**about, **changes})


@pytest.mark.parametrize(
    ("about", "log", "accounting", "cause"),
    [
        ({}, f"..{NOTICE.format('NODE FAILURE')}", "", "node_failure"),
        ({}, "..", "5|NODE_FAIL\n5|PREEMPTED\n", "preempted"),
        ({}, f"..{KILLED}", "5|FAILED\n5|FAILED\n", "killed"),
        ({}, "..", "5|NODE_FAIL\n", None),
        ({}, f"..{SCANCEL}", "", "cancelled"),
        ({}, f"..{SCANCEL.replace('JOB 7', 'STEP 7.0')}", "", None),
        ({}, f"..{NOTICE.format('JOB REQUEUE').replace('JOB 7', 'STEP 7.0')}", "", "requeued"),
        ({}, "..slurmstepd: error: Detected 1 oom_kill event in StepId=4.0\n", "", "out_of_memory"),
        ({}, f"..{NOTICE.format('PREEMPTION')}", "", "preempted"),
        ({}, f"..{NOTICE.format('NODE FAILURE, SEE SLURMCTLD LOG')}", "", "node_failure"),
        ({"cause": "crashed"}, f"..{SCANCEL}", "", None),
        ({"cause": "crashed"}, "..srun: error: n1: task 0: Out Of Memory\n", "", "out_of_memory"),
        (
            {"log_offset": None},
            f"..{NOTICE.format('NODE FAILURE')}",
            "5|NODE_FAIL\n5|NODE_FAIL\n",
            None,
        ),
    ],
)
def test_why_an_earlier_attempt_ended(logs, monkeypatch, about, log, accounting, cause):
    monkeypatch.setattr(
        client, "output_of", lambda command: accounting if command[-1] == "5" else None
    )
    (logs / "5_0_log.err").write_text(log)
    assert SlurmCluster().current_job(logs).why_ended(attempt(**about)) == cause


SINFO = """\
n1|low*|idle|a100,nvme
n1|high|idle|a100,nvme
n2|low*|mixed|a100
n3|low*|drained|a100
n4|low*|down*|a100
m1|high|allocated|v100
"""


@pytest.mark.parametrize(
    ("features", "count"), [(None, 2), ("a100&nvme", 1), ("[a|b]", None), ("h100", 0)]
)
def test_nodes_that_could_run_a_job(monkeypatch, features, count):
    monkeypatch.setattr(client, "run", lambda command, **_: Reply(0, SINFO))
    found = client.nodes(None, features, "n3")
    assert (None if found is None else len(found.usable)) == count


def test_a_task_knows_the_nodes_by_what_its_batch_script_saw(logs):
    task = SlurmCluster().current_job(logs)
    assert task.nodes() is None
    (logs / "7_shown").write_text("JobId=7 Partition=low Features=a100 ExcNodeList=n[3-4]\n")
    (logs / "7_nodes").write_text(f"n3\nn4\n--\n{SINFO}")
    assert task.nodes() == Nodes({"n1", "n2"}, ["n3", "n4"])


def test_a_task_knows_that_its_last_start_was_preempted(logs):
    """A container may have no client; the last notice is about the job's own requeue."""
    (logs / "7_0_log.err").write_text(NOTICE.format("JOB REQUEUE"))
    first = Attempt(attempt=0, job_id="7", step=0, restart=0, log_offset=0, cause="terminated")
    (logs / "7_shown").write_text("JobId=7 Restarts=0 PreemptTime=2026-11-25T00:32:06\n")
    task = SlurmCluster().current_job(logs)
    assert task.why_ended(first) == "preempted"
    assert task.why_ended(replace(first, restart=1)) == "requeued"


def test_a_requeue_that_slurm_has_not_answered_says_since_when(logs):
    task = SlurmCluster().current_job(logs)
    why = functools.partial(task.cluster.why_waiting, task.ref, asks=False)
    assert why(Answer("running")) is None, "it has begun again"
    task.wish(Requeue())
    assert "has not answered the requeue" in why(Answer("running")).reason
    assert why(Answer("ending")) is None


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (Requeue(20.4, avoid=("n1", "n2"), readmit=("n3",)), "delay 20\navoid n1,n2\nreadmit n3\n"),
        (Requeue(after_limit=True), "delay 0\nonly limit\n"),
        (Requeue(None), ""),
    ],
)
def test_a_wish_is_a_file_of_this_start(logs, wish, text):
    task = SlurmCluster().current_job(logs)
    task.wish(Requeue(5.0))
    task.wish(wish)
    assert {file.name: file.read_text() for file in logs.iterdir()} == {
        "7_wish_1": f"{text}decided yes\n"
    }


@pytest.mark.parametrize("error", [None, SchedulerAway("nobody answers")])
def test_a_mark_keeps_a_job_that_is_cancelled_from_starting_again(logs, monkeypatch, error):
    """And so nothing waits for it to fail."""
    (logs / "7_successor").write_text("8\n")
    job = SlurmCluster().current_job(logs).ref
    ended = []

    def cancel(job_ids):
        assert (logs / "7_cancelled").exists()
        ended.extend(job_ids)
        if error is not None:
            raise error

    monkeypatch.setattr(client, "cancel", cancel)
    with contextlib.nullcontext() if error is None else pytest.raises(type(error)):
        SlurmCluster().cancel([job])
    assert (ended, (logs / "7_cancelled").exists()) == (["7", "8"], error is None)


@pytest.mark.parametrize(("text", "job_id"), [("8_2\n", "8_2"), ("--all\n", None)])
def test_who_waits_for_it_to_fail(logs, text, job_id):
    task = SlurmCluster().current_job(logs)
    assert task.successor() is None
    (logs / "7_successor").write_text(text)
    assert task.successor() == (replace(task.ref, job_id=job_id) if job_id else None)


@pytest.mark.parametrize("clock", [0, 3600, -3600])
@pytest.mark.parametrize(
    ("left", "stop"), [(3600, None), (150, 75.0), (100, 50.0), (20, 10.0), (-5, 0.0)]
)
def test_a_notice_that_nobody_heard_is_made_up_for(logs, tmp_path, monkeypatch, left, stop, clock):
    """Whatever the time of day is on the node."""
    monkeypatch.setenv("CLDCTL_SIGNAL_S", "90")
    monkeypatch.setenv("CLDCTL_BOOT_S", "500")
    monkeypatch.setenv("SLURM_JOB_START_TIME", "1000")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(1060 + max(left, 0)))
    (tmp_path / "uptime").write_text(f"{560 + max(-left, 0)}.25 900.00\n")
    monkeypatch.setattr(job_env, "_UPTIME", tmp_path / "uptime")
    monkeypatch.setattr(job_env.time, "time", lambda: 1060.0 + clock)
    assert SlurmCluster().current_job(logs).late_notice_s() == stop
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert SlurmCluster().current_job(logs).late_notice_s() is None
