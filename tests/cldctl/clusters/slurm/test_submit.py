"""Submitting to a made-up Slurm: refusals, no answer, variables of a job, limits, the start."""

import functools
import itertools
import os
import signal
import stat
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from cld_core.config.cluster import ClusterSpec
from cld_core.errors import RecipeError
from cld_core.run.events import JobRef
from cldctl.clusters.base import Answer, JobSpec, SchedulerAway, SchedulerRefused
from cldctl.clusters.slurm import client
from cldctl.clusters.slurm import submit as submitting
from cldctl.clusters.slurm.client import Reply
from cldctl.clusters.slurm.cluster import SlurmCluster
from tests.cldctl.clusters.works import Report
from tests.support.failing import FULL_DISK
from tests.support.made_up import job
from tests.support.scheduler import clients
from tests.support.tools import wait_for

CONTROLLER = "sbatch: error: Unable to contact slurm controller (connect failure)"
# Where no slurm.conf and no controller can be located.
NOWHERE = (
    "sbatch: error: DNS SRV lookup failed\\nsbatch: fatal: Could not establish a "
    "configuration source"
)


@pytest.fixture
def spec(tmp_path):
    return JobSpec(name="mine", logs=tmp_path / "logs", size=ClusterSpec(partition="gpu"))


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
    assert submit(spec) == [
        JobRef(cluster="slurm", job_id="31", logs=str(spec.logs), restarts=True)
    ]
    assert [job.job_id for job in submit(spec, 2)] == ["31_0", "31_1"]


def test_what_sbatch_and_the_job_read_is_nobody_else_s_to_write(spec, sbatch, tmp_path):
    sbatch(
        f"cat $1 > {tmp_path}/script; ls {spec.logs} | wc -l; umask > {tmp_path}/umask; echo batch "
        f"job 31"
    )
    before = os.umask(0)
    try:
        submit(spec, 2)
    finally:
        os.umask(before)
    assert (tmp_path / "umask").read_text() == "0022\n", "other users may not write its logs"
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) & 0o022 for file in spec.logs.iterdir()}
    assert modes == dict.fromkeys(
        ("31_0_submitted.pkl", "31_1_submitted.pkl", "31_submission.sh"), 0
    )
    assert (tmp_path / "script").read_text() == SlurmCluster().script(spec, 2)


def test_ctrl_c_waits_for_sbatch(spec, sbatch, tmp_path):
    """A job that it has submitted would be in no ledger."""
    # The mask of the process itself: a shell forgets it when it waits for another process.
    sbatch(f"echo Submitted batch job 31; exec grep SigBlk /proc/self/status >{tmp_path}/blocked")
    submit(spec)
    blocked = int((tmp_path / "blocked").read_text().split()[1], 16)
    assert blocked & 1 << signal.SIGINT - 1
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_job_inside_a_job_inherits_nothing_of_it(spec, sbatch, tmp_path, monkeypatch):
    sbatch(f"env > {tmp_path}/env; echo Submitted batch job 31")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    submit(spec)
    assert "SLURM_NTASKS=8" in (tmp_path / "env").read_text(), (
        "a wish of the user, where there is no outer job"
    )
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    submit(spec)
    left = [
        line for line in (tmp_path / "env").read_text().splitlines() if line.startswith("SLURM_")
    ]
    assert [line.split("=")[0] for line in left] == ["SLURM_CONF", "SLURM_UMASK"], (
        "those of the user"
    )


@pytest.mark.parametrize(
    ("said", "error", "says"),
    [
        ("", SchedulerRefused, r"refused the job mine: sbatch ended with 1\."),
        (
            "sbatch: error: invalid partition: nope",
            SchedulerRefused,
            "refused the job mine: invalid partition: nope",
        ),
        (
            CONTROLLER,
            SchedulerAway,
            "does not answer, and the job mine was not submitted: Unable to contact",
        ),
        (
            NOWHERE,
            SchedulerAway,
            "does not answer, and the job mine was not submitted: Could not establish",
        ),
    ],
)
def test_a_controller_that_is_away_has_not_refused(spec, sbatch, capfd, said, error, says):
    sbatch(f"echo Welcome. Sessions are timed out after a day.; printf '{said}' >&2; exit 1")
    with pytest.raises(error, match=says):
        submit(spec)
    assert not list(spec.logs.iterdir())
    assert capfd.readouterr().err == "", "the message is the only one"


@pytest.mark.parametrize(
    ("size", "key", "listed", "advice"),
    [
        (ClusterSpec(qos="x"), "qos", "long,normal\nlong\n", r"qos is x\. .*: long, normal\."),
        (ClusterSpec(), "account", "", r"account is null\. .*: see `sacctmgr"),
    ],
)
def test_accounts_and_qos_that_may_be_used(spec, sbatch, said, size, key, listed, advice):
    sbatch(f"echo 'sbatch: error: Invalid {key} specified' >&2; exit 1")
    said["--noheader --parsable2"] = listed
    with pytest.raises(SchedulerRefused, match=f"Invalid {key} specified. cluster.{advice}"):
        submit(replace(spec, size=size))


HANGS = ("mkfifo fifo; read nothing <fifo", r"no answer within 120 s\.")
TIMED_OUT = (
    "echo 'sbatch: error: Socket timed out on send/recv' >&2; exit 1",
    "Socket timed out on send/recv. ",
)


@pytest.mark.parametrize(
    ("how", "answers", "advice", "cancelled"),
    [
        (HANGS, [Reply(0, "30|{now}\n31|{now}\n")], r"\(31\) is cancelled", ["31"]),
        (TIMED_OUT, [Reply(0, "")], "Try again when it answers", []),
        (
            TIMED_OUT,
            [Reply(1, ""), Reply(0, "31|{now}\n7|2020-01-01T00:00:00\n")],
            r"\(31\) is cancelled",
            ["31"],
        ),
        (
            TIMED_OUT,
            [Reply(1, "")] * 9,
            "The job may be in the queue nevertheless.*squeue --me --name=mine",
            [],
        ),
    ],
)
def test_an_sbatch_without_an_answer_leaves_no_job_behind(
    spec, sbatch, monkeypatch, how, answers, advice, cancelled
):
    """Slurm may have accepted the job nevertheless, which would be in no ledger."""
    asked = []
    left = list(answers)
    passed = itertools.count()

    def run(command, **options):
        asked.append(command)
        answer = left.pop(0) if command[0] == "squeue" else Reply(0, "")
        return Reply(answer.code, answer.text.format(now=time.strftime("%Y-%m-%dT%H:%M:%S")))

    class Timer(threading.Timer):
        def run(self):
            wait_for(calls.exists, 300)
            self.function()

    calls = sbatch(how[0])
    clock = SimpleNamespace(
        time=time.time, sleep=lambda seconds: None, monotonic=lambda: 20.0 * next(passed)
    )
    if how is HANGS:
        monkeypatch.chdir(spec.logs.parent)
        monkeypatch.setattr(submitting, "threading", SimpleNamespace(Timer=Timer))
    monkeypatch.setattr(submitting, "time", clock)
    monkeypatch.setattr(client, "run", run)
    earlier = (job("30_0", "slurm"),)
    with pytest.raises(SchedulerAway, match=f"{how[1]}.*{advice}"):
        submit(replace(spec, earlier=earlier))
    assert [command[1:] for command in asked if command[0] == "scancel"] == (
        [cancelled] if cancelled else []
    )


def test_a_submission_that_cannot_be_finished_leaves_no_job(spec, sbatch, monkeypatch):
    sbatch("echo Submitted batch job 77")
    cancelled = []
    monkeypatch.setattr(client, "cancel", cancelled.extend)

    full = Mock(side_effect=FULL_DISK)
    with pytest.raises(SchedulerRefused, match="No space left"):
        SlurmCluster().submit(spec, [Report("folder", "name")] * 2, full)
    assert cancelled == ["77"], "no ledger knows it"


CONFIG = "AccountingStorageEnforce = associations,limits\nMaxArraySize            = 1001\n"


def association(account, user="", *, group="N(8)", each="", lineage="/", default="No"):
    return (
        f"ClusterName=test Account={account} UserName={user} Partition= Priority=0 ID=2\n"
        f"    SharesRaw/Norm/Level/Factor=1/1.00/1/1.00\n    ParentAccount= Lineage={lineage} "
        f"DefAssoc={default}\n"
        f"    GrpJobs=N(0) GrpJobsAccrue=N(0)\n    GrpSubmitJobs={group} GrpWall=N(0.00)\n"
        f"    MaxJobs= MaxJobsAccrue= MaxSubmitJobs={each} MaxWallPJ=\n"
    )


QOS = (
    "QOS=normal(1)\n    UsageRaw=0.000000\n    GrpJobs=N(0) GrpJobsAccrue=N(0) "
    "GrpSubmitJobs=30(8)\n"
    "    MaxWallPJ=\n    Account Limits\n      lab\n        MaxJobsPA=N(0) MaxSubmitJobsPA=1(8)\n  "
    "  User Limits\n"
    "      bob(7)\n        MaxJobsPU=N(0) MaxJobsAccruePU=N(0) MaxSubmitJobsPU=3(2)\n"
    "      ann(8)\n        MaxJobsPU=N(0) MaxJobsAccruePU=N(0) MaxSubmitJobsPU=12(8)\n"
)


def shown(*associations, qos=""):
    heading = "Current Association Manager state\n\nAssociation Records\n\n"
    return f"{heading}{''.join(associations)}\nQOS Records\n\n{qos}\n"


ANN = {"user": "ann(8)", "lineage": "/lab/deep/0-ann/", "default": "Yes"}


@pytest.mark.parametrize(
    ("text", "account", "most"),
    [
        (shown(association("deep", **ANN)), None, []),
        (
            shown(
                association("other", "bob(7)", each="3(0)"),
                association("deep", each="12(5)", **ANN),
            ),
            None,
            [7],
        ),
        (shown(association("lab", group="20(8)"), association("deep", **ANN)), None, [12]),
        (
            shown(
                association("x", "ann(8)", each="4(0)"), association("deep", each="12(5)", **ANN)
            ),
            None,
            [7],
        ),
        (
            shown(
                association("x", "ann(8)", each="4(0)"), association("deep", each="12(5)", **ANN)
            ),
            "x",
            [4],
        ),
        # A limit of the QOS takes the place of that of the association.
        (shown(association("deep", each="7(8)", **ANN), qos=QOS), None, [4, 22]),
        ("slurm_load_assoc_mgr_info error: Access/permission denied", None, []),
    ],
)
def test_jobs_that_may_wait_less_those_that_do(text, account, most):
    assert [
        limit.tasks for limit in submitting.limits_of_jobs(text, "ann", account, "normal")
    ] == most


@pytest.fixture
def said(monkeypatch):
    """What Slurm's clients print, by their last two arguments."""
    answers = {"show config": CONFIG}
    submitting.forget()
    monkeypatch.setattr(client, "output_of", lambda command: answers.get(" ".join(command[1:3])))
    monkeypatch.setattr(submitting, "user_name", lambda number: "ann")
    yield answers
    submitting.forget()


def test_the_tightest_limit_counts_and_is_named(said, spec):
    said["show assoc_mgr"] = shown(association("deep", each="12(5)", **ANN))
    limit = SlurmCluster().most_tasks(spec)
    assert limit.tasks == 7
    assert "at most 12 jobs may be in the queue (MaxSubmitJobs of your" in limit.why
    SlurmCluster().check(spec, 7)
    with pytest.raises(RecipeError, match=r"8 jobs are more.*MaxSubmitJobs.*Submit at most 7"):
        SlurmCluster().check(spec, 8)


@pytest.mark.parametrize(
    ("config", "most", "why"),
    [
        (CONFIG, 1001, "MaxArraySize"),
        ("MaxArraySize = 0\n", 1, "MaxArraySize"),
        (CONFIG + "SchedulerParameters     = a=1,max_array_tasks=50,b\n", 50, "max_array_tasks"),
        (None, 1000, "MaxArraySize"),
    ],
)
def test_without_limits_of_jobs_an_array_is_as_long_as_arrays_may_be(said, spec, config, most, why):
    said["show config"] = config
    assert SlurmCluster().most_tasks(spec).tasks == SlurmCluster().array_size() == most
    assert why in submitting.array_limit().why
    SlurmCluster().check(spec, most + 1)


# Seconds until a job begins, as Slurm writes it, and what is made of it: far ahead it has only
# added up limits.
@pytest.mark.parametrize(
    ("ahead", "is_believed"), [(3600.0, True), (40 * 86400.0, False), (3e10, False)]
)
def test_the_start_that_slurm_expects_of_a_job_and_of_a_script(
    spec, tmp_path, monkeypatch, ahead, is_believed
):
    when = float(int(time.time() + ahead))
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(when))
    expected = when if is_believed else None
    monkeypatch.setattr(client, "show_job", lambda *_: {"Reason": "Resources", "StartTime": text})
    assert (
        SlurmCluster().why_waiting(job("7", "slurm"), Answer("pending"), asks=True).expected
        == expected
    )
    said = f"echo 'sbatch: Job 9 to start at {text} using 2 processors on nodes n1' >&2"
    calls = clients(tmp_path, monkeypatch, f"cat > {tmp_path}/script\n{said}")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert SlurmCluster().ask_for_start(spec)() == expected
    assert calls.read_text() == "sbatch --test-only\n"
    assert "#SBATCH --partition=gpu" in (tmp_path / "script").read_text()
