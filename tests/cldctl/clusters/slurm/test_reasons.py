"""Why a job waits, in plain words, and when it would begin."""

import time

import pytest

from cld_core.config.cluster import ClusterSpec
from cldctl.clusters.records import JobSpec, Seen
from cldctl.clusters.slurm import client
from cldctl.clusters.slurm.cluster import SlurmCluster
from cldctl.clusters.slurm.reasons import explained
from tests.support.ledgers import job
from tests.support.scheduler import clients

PENDING = Seen("pending", word="PENDING")


@pytest.mark.parametrize(
    ("word", "reason", "advice"),
    [
        ("Priority", "jobs of higher priority come first (Priority)", "sprio -j 7"),
        ("Resources", "waits for nodes to become free", "cluster.time_min"),
        ("QOSMaxJobsPerUserLimit", "allows one user", "wait for your other jobs"),
        ("AssocGrpGRESMinutes", "the budget of its account is used up", "cluster.account"),
        ("ReqNodeNotAvail,_UnavailableNodes:n[1-4]", "down, drained or reserved", "sinfo -R"),
        ("BeginTime", "may not begin yet", ""),
        ("Dependency", "another job to end (afterany:6)", ""),
        ("DependencyNeverSatisfied", "it never begins", "cancel it"),
        ("JobHeldUser", "somebody holds it", "scontrol release 7"),
        ("PartitionTimeLimit", "it never begins", "lower cluster.time_min"),
        ("SomethingNew", "Slurm says SomethingNew", "man squeue"),
        ("None", "it was just submitted", ""),
    ],
)
def test_every_reason_is_said_in_words_with_what_to_do(word, reason, advice):
    found = explained("7", {"Reason": word, "Dependency": "afterany:6", "StartTime": "Unknown"}, PENDING)
    assert reason in found.reason
    assert advice in found.advice
    assert found.expected is None


def test_without_scontrol_the_survey_s_word_is_explained_and_without_any_nothing():
    assert "higher priority" in explained("7", {}, Seen("pending", reason="Priority")).reason
    assert explained("7", {}, PENDING) is None
    assert explained("7", {"Reason": "a{b}"}, PENDING).reason == "Slurm says a{b}"


def test_the_start_that_slurm_expects(monkeypatch):
    monkeypatch.setattr(client, "show_job", lambda job_id: {"Reason": "Resources", "StartTime": "2030-01-02T03:04:05"})
    found = SlurmCluster().why_waiting(job("7", "slurm"), PENDING)
    assert found.expected == time.mktime((2030, 1, 2, 3, 4, 5, 0, 0, -1))
    assert SlurmCluster().why_waiting(job("no-job", "slurm"), PENDING) is None, "scontrol is not asked about that"


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Replaces sbatch by the lines of a shell script, behind those that keep the script of the job."""
    return lambda lines: clients(tmp_path, monkeypatch, f"cat > {tmp_path}/script\n{lines}")


def asked(tmp_path):
    spec = JobSpec(name="mine", logs=tmp_path / "logs", size=ClusterSpec(partition="gpu"))
    return SlurmCluster().ask_for_start(spec)()


def test_one_test_only_call_with_the_script_of_the_job(sbatch, tmp_path, monkeypatch):
    calls = sbatch("echo 'sbatch: Job 9 to start at 2030-01-02T03:04:05 using 2 processors on nodes n1' >&2")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert asked(tmp_path) == time.mktime((2030, 1, 2, 3, 4, 5, 0, 0, -1))
    assert calls.read_text() == "sbatch --test-only\n"
    assert "#SBATCH --partition=gpu" in (tmp_path / "script").read_text()
