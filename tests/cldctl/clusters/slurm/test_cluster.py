"""Submitting to a made-up Slurm: refusals, no answer, and what a job inherits; and a task of a job from inside.

From inside: what signals mean, why attempts ended, how it requeues.
"""

import functools
import itertools
import os
import stat
import time
from types import SimpleNamespace
from typing import Any

import pytest

from cld_core.config.cluster import ClusterSpec
from cld_core.run.events import JobRef
from cld_core.run.history import Attempt
from cld_core.stop import StopCode
from cldctl import clusters
from cldctl.clusters import entry
from cldctl.clusters.base import JobSpec, SchedulerAway, SchedulerRefused
from cldctl.clusters.slurm import client, cluster
from cldctl.clusters.slurm import submit as submitting
from cldctl.clusters.slurm.client import Answer
from cldctl.clusters.slurm.cluster import SlurmCluster
from tests.cldctl.clusters.works import Report
from tests.support.clock import Clock
from tests.support.scheduler import clients

CONTROLLER = "sbatch: error: Unable to contact slurm controller (connect failure)"
# Where no slurm.conf and no controller can be located.
NOWHERE = "sbatch: error: DNS SRV lookup failed\\nsbatch: fatal: Could not establish a configuration source"


@pytest.fixture
def spec(tmp_path):
    return JobSpec(name="mine", logs=tmp_path / "logs", size=ClusterSpec())


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Replaces sbatch by the lines of a shell script."""
    return functools.partial(clients, tmp_path, monkeypatch)


def submit(spec, count=1):
    noted = []
    SlurmCluster().submit(spec, [Report("folder", "name")] * count, noted.extend)
    return noted


def test_a_job_and_an_array(spec, sbatch):
    sbatch("echo Submitted batch job 31")
    assert submit(spec) == [JobRef(cluster="slurm", job_id="31", logs=str(spec.logs), restarts=True)]
    assert [job.job_id for job in submit(spec, 2)] == ["31_0", "31_1"]


def test_what_sbatch_and_the_job_read_is_nobody_else_s(spec, sbatch, tmp_path):
    """sbatch gets the script through a pipe: no file of it can be exchanged in between."""
    sbatch(f"test $# = 0 || exit 1; cat > {tmp_path}/script; ls {spec.logs} > {tmp_path}/there; echo batch job 31")
    spec.logs.mkdir()
    spec.logs.chmod(0o2777)
    submit(spec, 2)
    assert stat.S_IMODE(spec.logs.stat().st_mode) == 0o2755
    assert (tmp_path / "script").read_text() == SlurmCluster().script(spec, 2)
    assert len((tmp_path / "there").read_text().split()) == 2, "what the job runs is there before it is"
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in spec.logs.glob("*.pkl")}
    assert modes == {"31_0_submitted.pkl": 0o600, "31_1_submitted.pkl": 0o600}
    assert (spec.logs / "31_submission.sh").read_text() == SlurmCluster().script(spec, 2)


def test_a_job_inside_a_job_inherits_nothing_of_it(spec, sbatch, tmp_path, monkeypatch):
    sbatch(f"env > {tmp_path}/env; echo Submitted batch job 31")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("SBATCH_ACCOUNT", "lab")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    submit(spec)
    assert "SLURM_NTASKS=8" in (tmp_path / "env").read_text(), "a wish of the user, where there is no outer job"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    submit(spec)
    left = [line for line in (tmp_path / "env").read_text().splitlines() if line.startswith("SLURM_")]
    assert left == ["SLURM_CONF=/etc/slurm.conf"]
    assert os.environ["SLURM_NTASKS"] == "8"


@pytest.mark.parametrize(
    ("said", "error", "says"),
    [
        ("sbatch: error: invalid partition: nope", SchedulerRefused, "refused the job mine: invalid partition: nope"),
        (CONTROLLER, SchedulerAway, "does not answer, and the job mine was not submitted: Unable to contact"),
        (NOWHERE, SchedulerAway, "does not answer, and the job mine was not submitted: Could not establish"),
    ],
)
def test_a_controller_that_is_away_has_not_refused(spec, sbatch, capfd, said, error, says):
    sbatch(f"printf '{said}' >&2; exit 1")
    with pytest.raises(error, match=says) as raised:
        submit(spec)
    assert "\n" not in str(raised.value)
    assert ("refused" in str(raised.value)) == (error is SchedulerRefused)
    assert not list(spec.logs.iterdir())
    assert capfd.readouterr().err == "", "the message is the only one"


HANGS = ("exec sleep 600", r"no answer within 1 s\.")
TIMED_OUT = ("echo 'sbatch: error: Socket timed out on send/recv' >&2; exit 1", "Socket timed out on send/recv. ")


@pytest.mark.parametrize(
    ("how", "answers", "advice", "cancelled"),
    [
        (HANGS, [Answer(0, "31|{now}\n")], r"\(31\) is cancelled", ["31"]),
        (TIMED_OUT, [Answer(0, "")], "Try again when it answers", []),
        (TIMED_OUT, [Answer(1, ""), Answer(0, "31|{now}\n7|2020-01-01T00:00:00\n")], r"\(31\) is cancelled", ["31"]),
        (TIMED_OUT, [Answer(1, "")] * 9, "The job may wait there all the same.*squeue --me --name=mine", []),
    ],
)
def test_an_sbatch_without_an_answer_leaves_no_job_behind(spec, sbatch, monkeypatch, how, answers, advice, cancelled):
    """Slurm may have accepted the job all the same; nobody would know of it."""
    asked, left, passed, call = [], list(answers), itertools.count(), client.run

    def run(command, *about, **how):
        if command[0] == "sbatch":
            return call(command, *about, **how)
        asked.append(command)
        answer = left.pop(0) if command[0] == "squeue" else Answer(0, "")
        return Answer(answer.code, answer.text.format(now=time.strftime("%Y-%m-%dT%H:%M:%S")))

    sbatch(how[0])
    clock = SimpleNamespace(time=time.time, sleep=lambda seconds: None, monotonic=lambda: 20.0 * next(passed))
    monkeypatch.setattr(submitting, "SBATCH_WITHIN_S", 1 if how is HANGS else 60)
    monkeypatch.setattr(submitting, "time", clock)
    monkeypatch.setattr(client, "run", run)
    with pytest.raises(SchedulerAway, match=f"{how[1]}.*{advice}"):
        submit(spec)
    assert [command[1:] for command in asked if command[0] == "scancel"] == ([cancelled] if cancelled else [])


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


def test_a_submission_that_cannot_be_finished_leaves_no_job(spec, sbatch, monkeypatch):
    """What its tasks are to run could not get the name by which they look for it."""
    sbatch("echo Submitted batch job 77")
    cancelled: list[str] = []
    monkeypatch.setattr(client, "cancel", cancelled.extend)

    def failing(*arguments):
        raise OSError(5, "Input/output error")

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, failing)
    monkeypatch.setattr("cld_core.files.time", Clock())
    monkeypatch.setattr(entry, "time", Clock())
    with pytest.raises((OSError, SchedulerRefused), match="Input/output"):
        submit(spec)
    assert cancelled == ["77"]
    assert list(spec.logs.glob("*.pkl")) == []


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


def in_seconds(seconds: float) -> str:
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


def attempt(**changes: Any) -> Attempt:
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

    def control(*answers: Answer, shows: tuple[dict[str, str], ...] = ()) -> list[str]:
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
            *("n[3-4]", [Answer(0, "n3\nn4\n")]),
            "update jobid=7 starttime=now+20\nupdate jobid=7 excnodelist=n3,n4,n1\n",
        ),
        (
            {"exclude": ("n1",), "readmit": ("n4",)},
            *("n[3-5]", [Answer(0, "n3\nn4\nn5\n")]),
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
