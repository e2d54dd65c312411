"""A task of Slurm from inside: what signals mean, why attempts ended, how it requeues; and what clients answer."""

import time

import pytest

from cld_core.run.events import JobRef
from cld_core.run.history import Attempt
from cld_core.stop import StopCode
from cldctl import clusters
from cldctl.clusters.base import SchedulerAway, SchedulerRefused
from cldctl.clusters.slurm import client, cluster
from cldctl.clusters.slurm.client import Answer
from cldctl.clusters.slurm.cluster import SlurmCluster

CONTROLLER = "sbatch: error: Unable to contact slurm controller (connect failure)"


def test_a_client_that_does_not_answer_is_away(monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
    answer = client.run(["sleep", "60"])
    assert (answer.code, answer.away) == (-1, True)
    assert client.run(["no-such-client"]).away is False
    monkeypatch.setattr(client, "run", lambda command, stdin="": Answer(8, f"scancel: error: {CONTROLLER}", away=True))
    with pytest.raises(SchedulerAway, match=r"slurmctld does not answer .*\. Try again when it does\."):
        SlurmCluster().cancel([JobRef(cluster="slurm", job_id="7")])


@pytest.mark.parametrize(
    ("file", "variable", "answers", "name"),
    [(0, "", 0, "local"), (1, "", 0, "slurm"), (0, "/elsewhere", 0, "slurm"), (0, "", 1, "slurm")],
)
def test_clients_alone_are_not_the_default(monkeypatch, tmp_path, file, variable, answers, name):
    """A configuration makes Slurm one: in its usual place, in the variable, or with the controller that answers."""
    for client_name in ("sbatch", "scontrol"):
        (tmp_path / client_name).write_text(f"#!/bin/sh\nexit {int(not answers)}\n")
        (tmp_path / client_name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(client, "_CONFIGURATIONS", (str(tmp_path / "slurm.conf"),))
    monkeypatch.setenv("SLURM_CONF", variable)
    if not variable:
        monkeypatch.delenv("SLURM_CONF")
    if file:
        (tmp_path / "slurm.conf").touch()
    client._answers.cache_clear()
    assert SlurmCluster.unavailable() is None
    assert clusters.default().name == name
    client._answers.cache_clear()


def test_where_slurm_says_that_jobs_write(monkeypatch):
    asked = []
    text = (
        "scontrol: JobId=7 JobName=a b StdIn=/dev/null StdOut=/runs/a b/logs/7_0_log.out Power=\n"
        "JobId=32 ArrayJobId=31 ArrayTaskId=1 JobName=x StdOut=/runs/c/evals/e/logs/31_1_0_log.out\n"
        "JobId=40 ArrayJobId=40 ArrayTaskId=0-3%2 JobName=x StdOut=/runs/d/logs/%A_%a_0_log.out Power=\n"
        "slurm_load_jobs error: Invalid job id specified\n"
    )
    monkeypatch.setattr(client, "run", lambda command, stdin="": asked.append((command, stdin)) or Answer(1, text))
    jobs = [JobRef(cluster="slurm", job_id=job_id) for job_id in ("7", "31_1", "40_2", "50", "--all")]
    folders = {job_id: str(folder) for job_id, folder in SlurmCluster().logs_of(jobs).items()}
    assert folders == {"7": "/runs/a b/logs", "31_1": "/runs/c/evals/e/logs", "40_2": "/runs/d/logs"}
    shown = "show job 7\nshow job 31_1\nshow job 40_2\nshow job 50\n"
    assert asked == [(["scontrol", "--oneliner"], shown)]
    assert SlurmCluster().logs_of([]) == {}


NOTICE = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-25T00:32:06 DUE TO {} ***\n"
SCANCEL = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-25T00:32:06 ***\n"


@pytest.fixture
def logs(tmp_path, monkeypatch):
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"JOB_ID": "7", "RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("CLDCTL_SIGNAL_S", "60")
    monkeypatch.setattr(cluster, "_NOTICE_WITHIN_S", 0.0)
    return tmp_path


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
        (StopCode.TERM, {"PreemptTime": "2026-11-25T00:00:00"}, "", "preempted"),
        (StopCode.TERM, {}, NOTICE.format("TIME LIMIT"), "timeout"),
        (StopCode.TERM, {"Restarts": "2"}, NOTICE.format("NODE FAILURE"), "node_failure"),
        (StopCode.TERM, {"Restarts": "2"}, "", "requeued"),
        (StopCode.TERM, {"Restarts": "1", "JobState": "COMPLETING"}, SCANCEL, "cancelled"),
        (StopCode.TERM, {"JobState": "COMPLETING", "Reason": "TimeLimit", "EndTime": -10}, "", "timeout"),
        (StopCode.TERM, {"JobState": "COMPLETING", "Reason": "TimeLimit", "EndTime": -100}, "", "cancelled"),
        (StopCode.TERM, {"JobState": "RUNNING"}, "", None),
    ],
)
def test_what_a_signal_means(logs, monkeypatch, code, known, log, cause):
    times = {name: in_seconds(value) for name, value in known.items() if name == "EndTime"}
    monkeypatch.setattr(client, "show_job", lambda job_id: {**known, **times})
    job = SlurmCluster().current_job(logs)
    job.log.write_text(f"{NOTICE.format('JOB REQUEUE')}{log}")
    assert job.cause_of(code, len(NOTICE.format("JOB REQUEUE"))) == cause, "notices of earlier starts do not count"


def attempt(**changes):
    about = {"attempt": 3, "job_id": "5", "time": 1.0, "step": 0, "log_offset": 2, "restart": 1}
    return Attempt(**{**about, **changes})


@pytest.mark.parametrize(
    ("about", "log", "accounting", "cause"),
    [
        ({}, f"..{NOTICE.format('NODE FAILURE')}", "", "node_failure"),
        ({}, "..", "5|NODE_FAIL\n5|PREEMPTED\n", "preempted"),
        ({}, "..", "5|NODE_FAIL\n", None),
        ({}, f"..{SCANCEL}", "", "cancelled"),
        ({"cause": "crashed"}, f"..{SCANCEL}", "", None),
        ({"cause": "crashed"}, "..srun: error: n1: task 0: Out Of Memory\n", "", "out_of_memory"),
        ({"log_offset": None}, f"..{NOTICE.format('NODE FAILURE')}", "5|NODE_FAIL\n5|NODE_FAIL\n", None),
    ],
)
def test_why_an_earlier_attempt_ended(logs, monkeypatch, about, log, accounting, cause):
    monkeypatch.setattr(client, "sacct", lambda fields, job_ids: accounting if job_ids == ["5"] else None)
    (logs / "5_0_log.err").write_text(log)
    assert SlurmCluster().current_job(logs).why_ended(attempt(**about)) == cause


@pytest.fixture
def controlled_by(monkeypatch):
    """What scontrol answers: those of `show job`, and those of its standard input; returns what that was."""

    def control(*answers, shows=()):
        left, shown, stdin = list(answers), list(shows), []
        monkeypatch.setattr(client, "run", lambda command, said="": stdin.append(said) or left.pop(0))
        monkeypatch.setattr(client, "show_job", lambda job_id: shown.pop(0) if shown else {})
        return stdin

    return control


@pytest.mark.parametrize(
    ("how", "excluded", "names", "changes"),
    [
        ({}, "", [], ""),
        (
            {"delay_s": 20, "exclude": ("n1",)},
            "n[3-4]",
            [],
            "update jobid=7 starttime=now+20\nupdate jobid=7 excnodelist=n[3-4],n1\n",
        ),
        (
            {"exclude": ("n1",), "readmit": ("n4",)},
            "n[3-5]",
            [Answer(0, "n3\nn4\nn5\n")],
            "update jobid=7 excnodelist=n3,n5,n1\n",
        ),
    ],
)
def test_it_requeues_elsewhere_and_later_by_one_command(logs, controlled_by, how, excluded, names, changes):
    asked = controlled_by(*names, Answer(0, ""), shows=({"ExcNodeList": excluded},))
    SlurmCluster().current_job(logs).requeue(**how)
    assert asked[len(names) :] == [f"requeue 7\n{changes}"]


SINFO = """\
n1|low*|idle|a100,nvme
n1|high|idle|a100,nvme
n2|low*|mixed|a100
n3|low*|drained|a100
n4|low*|down*|a100
m1|high|allocated|v100
"""


@pytest.mark.parametrize(
    ("partition", "features", "count"),
    [(None, None, 2), (None, "(null)", 2), (None, "a100&nvme", 1), (None, "[a|b]", None), (None, "h100", 0)],
)
def test_nodes_that_could_run_a_job(controlled_by, partition, features, count):
    controlled_by(Answer(0, SINFO))
    found = client.nodes(partition, features, "n3")
    assert (None if found is None else len(found.usable)) == count


@pytest.mark.parametrize(("left", "stop"), [(3600, None), (150, 75.0), (100, 50.0), (20, 10.0), (-5, 0.0)])
def test_a_notice_that_nobody_heard_is_made_up_for(logs, monkeypatch, left, stop):
    monkeypatch.setenv("CLDCTL_SIGNAL_S", "90")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(1000 + max(left, 0)))
    monkeypatch.setattr(cluster.time, "time", lambda: 1000.0 + max(-left, 0))
    assert SlurmCluster().current_job(logs).late_notice_s() == stop
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert SlurmCluster().current_job(logs).late_notice_s() is None


def test_a_refused_requeue_says_so_unless_the_job_waits_already(logs, controlled_by):
    refused, job = Answer(1, "Requested operation is presently disabled\n"), SlurmCluster().current_job(logs)
    for known in ({"JobState": "PENDING"}, {"JobState": "COMPLETING", "Restarts": "2"}):
        controlled_by(refused, shows=(known,))
        job.requeue()
    controlled_by(refused, shows=({"Restarts": "1", "JobState": "RUNNING"},))
    with pytest.raises(SchedulerRefused, match="job 7 could not be requeued: Requested operation is presently"):
        job.requeue()


@pytest.mark.parametrize(
    ("known", "cancelled"),
    [
        ({}, False),
        ({"JobState": "COMPLETING"}, True),
        ({"JobState": "COMPLETING", "PreemptTime": "2026-11-25T00:00:00"}, False),
        ({"JobState": "COMPLETING", "Reason": "TimeLimit"}, False),
        ({"JobState": "COMPLETING", "Restarts": "2"}, False),
    ],
)
def test_whether_somebody_cancelled_it(logs, monkeypatch, known, cancelled):
    monkeypatch.setattr(client, "show_job", lambda job_id: known)
    assert SlurmCluster().current_job(logs).is_cancelled() is cancelled
