"""Submitting to a made-up Slurm: refusals, no answer, and what a job inherits."""

import functools
import itertools
import os
import stat
import time
from types import SimpleNamespace

import pytest

from cld_core.config.cluster import ClusterSpec
from cld_core.run.events import JobRef
from cldctl import clusters
from cldctl.clusters import entry
from cldctl.clusters.base import Task
from cldctl.clusters.records import JobSpec, SchedulerAway, SchedulerRefused
from cldctl.clusters.slurm import client
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
    SlurmCluster().submit(spec, [Task(work=Report("folder", "name"))] * count, noted.extend)
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
        (
            "sbatch: error: invalid partition: nope",
            SchedulerRefused,
            "refused the job mine: invalid partition: nope",
        ),
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
    asked, left, passed = [], list(answers), itertools.count()

    def run(command, stdin=""):
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
