"""How a Slurm is set up, and what that means for jobs: preemption, limits of the queue, why a job waits."""

import time
from dataclasses import replace

import pytest

from cld_core.config.cluster import ClusterSpec
from cld_core.errors import RecipeError
from cldctl.clusters.base import Held, JobSpec, Seen
from cldctl.clusters.slurm import client, doctor, submit
from cldctl.clusters.slurm.cluster import SlurmCluster
from cldctl.clusters.slurm.reasons import explained
from tests.support.made_up import job
from tests.support.scheduler import clients

SCONTROL = """\
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = big
JobRequeue              = 1
KillWait                = 30 sec
PreemptMode             = GANG,SUSPEND
PreemptType             = preempt/partition_prio
SlurmctldParameters     = enable_configless,preempt_send_user_signal
SLURM_VERSION           = 23.02.7
"""
PARTITIONS = """\
PartitionName=spot AllowQos=ALL Default=NO QoS=N/A DefaultTime=NONE GraceTime=120 MaxTime=1-12:00:00 Nodes=g[1-40] \
PriorityTier=1 PreemptMode=REQUEUE State=UP TRES=cpu=8,mem=16000M,node=4
PartitionName=gpu AllowQos=ALL Default=YES QoS=N/A DefaultTime=00:30:00 GraceTime=0 MaxTime=UNLIMITED Nodes=g[1-40] \
PriorityTier=10 PreemptMode=GANG,SUSPEND State=DOWN TRES=cpu=8,mem=16000M,node=4
"""
SLURM = doctor.parse_configuration(SCONTROL)
SPOT, GPU = doctor.parse_partitions(PARTITIONS)


@pytest.mark.parametrize(
    ("save_s", "verdict"), [(None, "ok"), (10.0, "ok"), (80.0, "warn"), (151.0, "fail")]
)  # of 120 + 30 s
def test_a_save_must_fit_into_the_notice(save_s, verdict):
    judged = doctor.on_preemption("it", SPOT, [SPOT, GPU], SLURM, save_s)
    assert (judged.name, judged.verdict) == ("it", verdict)
    assert "SIGUSR2 at once, SIGTERM after 120 s, SIGKILL after 150 s" in judged.found


def test_modes_of_preemption():
    def outcome(mode, *changes):
        partition = replace(SPOT, preempt_mode=mode)
        return doctor.on_preemption("it", partition, [partition, GPU], SLURM | dict(changes), 1.0)

    assert outcome("OFF").verdict == "ok"
    assert outcome("").found.startswith("SUSPEND"), "the cluster's mode, since the partition has none"
    assert "hang_timeout_s" in outcome("GANG,SUSPEND").advice
    assert "requeued by the run itself" in outcome("CANCEL").found
    assert "not restarted" in outcome("CANCEL", ("SlurmctldParameters", "")).found
    assert "successor" in outcome("CANCEL").advice
    assert "by QOS" in outcome("REQUEUE", ("PreemptType", "preempt/qos")).found
    highest = doctor.on_preemption("it", GPU, [SPOT, GPU], SLURM, 1.0)
    assert highest.found == "never: no partition has a higher PriorityTier"


def test_preemption_by_qos():
    every = doctor.parse_qos("normal||cluster|00:00:00\nspot||REQUEUE|00:02:00\nurgent|spot,normal|cluster|00:00:00\n")
    normal, spot, urgent = every
    assert spot == doctor.Qos("spot", (), "REQUEUE", 120)
    setup = SLURM | {"PreemptType": "preempt/qos", "PreemptMode": "CANCEL"}

    def judged(qos):
        return doctor.on_preemption_by_qos("it", qos, every, setup, 80.0)

    assert (judged(spot).verdict, judged(urgent).verdict, judged(normal).verdict) == ("warn", "ok", "fail")
    assert "by urgent: REQUEUE: SIGUSR2 at once, SIGTERM after 120 s, SIGKILL after 150 s" in judged(spot).found
    assert "never" in judged(urgent).found
    assert "by urgent: CANCEL" in judged(normal).found, "the cluster's mode, since the QOS has none"


def test_time_limits():
    assert doctor.at_the_limit("it", SPOT, 90).verdict == "ok"
    assert doctor.at_the_limit("it", GPU, 90).verdict == "ok"
    assert "30 min, at most unlimited" in doctor.at_the_limit("it", GPU, 90).found
    assert "cluster.time_min" in doctor.at_the_limit("it", GPU, 1790).advice
    assert doctor.at_the_limit("it", SPOT, 36 * 3600).verdict == "fail"
    durations = {"00:01:00": 60, "2-00:00:00": 172800, "UNLIMITED": None}
    assert {text: doctor.parse_duration(text) for text in durations} == durations


CONFIG = "AccountingStorageEnforce = associations,limits\nMaxArraySize            = 1001\n"


def association(account, user="", *, group="N(8)", each="", lineage="/", default="No"):
    return (
        f"ClusterName=test Account={account} UserName={user} Partition= Priority=0 ID=2\n"
        f"    SharesRaw/Norm/Level/Factor=1/1.00/1/1.00\n    ParentAccount= Lineage={lineage} DefAssoc={default}\n"
        f"    GrpJobs=N(0) GrpJobsAccrue=N(0)\n    GrpSubmitJobs={group} GrpWall=N(0.00)\n"
        f"    MaxJobs= MaxJobsAccrue= MaxSubmitJobs={each} MaxWallPJ=\n"
    )


def qos(name, *, group="N(8)", each="N(8)", user="ann"):
    return (
        f"QOS={name}(1)\n    UsageRaw=0.000000\n    GrpJobs=N(0) GrpJobsAccrue=N(0) GrpSubmitJobs={group}\n"
        "    MaxWallPJ=\n    Account Limits\n      lab\n        MaxJobsPA=N(0) MaxSubmitJobsPA=1(8)\n    User Limits\n"
        "      bob(7)\n        MaxJobsPU=N(0) MaxJobsAccruePU=N(0) MaxSubmitJobsPU=3(2)\n"
        f"      {user}(8)\n        MaxJobsPU=N(0) MaxJobsAccruePU=N(0) MaxSubmitJobsPU={each}\n"
    )


def shown(*associations, qualities=()):
    heading = "Current Association Manager state\n\nAssociation Records\n\n"
    return f"{heading}{''.join(associations)}\nQOS Records\n\n{''.join(qualities)}\n"


ANN = {"user": "ann(8)", "lineage": "/lab/deep/0-ann/", "default": "Yes"}


@pytest.mark.parametrize(
    ("text", "account", "most"),
    [
        (shown(association("deep", **ANN)), None, []),
        (shown(association("deep", each="12(5)", **ANN)), None, [7]),
        (shown(association("other", "bob(7)", each="3(0)"), association("deep", each="12(5)", **ANN)), None, [7]),
        (shown(association("lab", group="20(8)"), association("deep", **ANN)), None, [12]),
        (shown(association("x", "ann(8)", each="4(0)"), association("deep", each="12(5)", **ANN)), None, [7]),
        (shown(association("x", "ann(8)", each="4(0)"), association("deep", each="12(5)", **ANN)), "x", [4]),
        # A limit of the QOS takes the place of that of the association.
        (shown(association("deep", each="7(8)", **ANN), qualities=[qos("normal", each="12(8)")]), None, [4]),
        (shown(association("deep", **ANN), qualities=[qos("normal", group="30(8)")]), None, [22]),
        ("slurm_load_assoc_mgr_info error: Access/permission denied", None, []),
    ],
)
def test_jobs_that_may_wait_less_those_that_do(text, account, most):
    assert [limit.tasks for limit in submit.limits_of_jobs(text, "ann", account, "normal")] == most


@pytest.fixture
def said(monkeypatch):
    """What Slurm's clients print, by their last argument but one; and what they were asked."""
    asked, answers = [], {"show config": CONFIG}

    def output_of(command):
        asked.append(" ".join(command[1:3]))
        return answers.get(asked[-1])

    submit.most_tasks.cache_clear()
    monkeypatch.setattr(client, "output_of", output_of)
    monkeypatch.setattr(submit, "user_name", lambda number: "ann")
    yield answers, asked
    submit.most_tasks.cache_clear()


@pytest.fixture
def spec(tmp_path):
    return JobSpec(name="mine", logs=tmp_path / "logs", size=ClusterSpec(partition="gpu"))


def test_the_tightest_limit_counts_and_is_named(said, spec):
    answers, asked = said
    answers["show assoc_mgr"] = shown(association("deep", each="12(5)", **ANN))
    limit = SlurmCluster().limit(spec)
    assert limit.tasks == 7
    assert "at most 12 jobs may be in the queue (MaxSubmitJobs of your" in limit.why
    assert asked == ["show config", "show assoc_mgr"], "each once"


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
    said[0]["show config"] = config
    assert SlurmCluster().limit(spec).tasks == most
    SlurmCluster().check(spec, most)
    with pytest.raises(RecipeError, match=f"{why}.*Submit at most {most}"):
        SlurmCluster().check(spec, most + 1)


PENDING = Seen("pending", word="PENDING")


@pytest.mark.parametrize(
    ("word", "reason", "advice"),
    [
        ("Priority", "jobs of higher priority come first (Priority)", "sprio -j 7"),
        ("QOSMaxJobsPerUserLimit", "allows one user", "wait for your other jobs"),
        ("AssocGrpGRESMinutes", "the budget of its account is used up", "cluster.account"),
        ("ReqNodeNotAvail,_UnavailableNodes:n[1-4]", "down, drained or reserved", "sinfo -R"),
        ("Dependency", "another job to end (afterany:6)", ""),
        ("DependencyNeverSatisfied", "it never begins", "cancel it"),
        ("JobHeldUser", "it is held by its user", "scontrol release 7"),
        ("JobHeldAdmin", "it is held by an administrator", "only they can release it"),
        ("job_requeued_in_held_state", "it is held", "scontrol release 7"),
        ("launch_failed_requeued_held", "it is held, because its last start failed on the node", "excnodelist"),
        ("Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs", "down, drained or reserved", "sinfo -R"),
        ("PartitionTimeLimit", "it never begins", "lower cluster.time_min"),
        ("SomethingNew", "Slurm says SomethingNew", "man squeue"),
    ],
)
def test_every_reason_is_said_in_words_with_what_to_do(word, reason, advice):
    found = explained("7", {"Reason": word, "Dependency": "afterany:6", "StartTime": "Unknown"}, PENDING)
    assert reason in found.reason
    assert advice in found.advice
    assert found.expected is None
    assert isinstance(found, Held) == ("held" in found.reason)


def test_without_scontrol_the_survey_s_word_is_explained_and_without_any_nothing():
    assert "higher priority" in explained("7", {}, Seen("pending", reason="Priority")).reason
    assert explained("7", {}, PENDING) is None
    assert explained("7", {"Reason": "a{b}"}, PENDING).reason == "Slurm says a{b}"


# Seconds until a job begins, as Slurm writes it, and what is made of it: far ahead it has only added up limits.
STARTS = pytest.mark.parametrize(("ahead", "is_believed"), [(3600.0, True), (40 * 86400.0, False), (3e10, False)])


def moment(ahead: float) -> tuple[str, float]:
    when = float(int(time.time() + ahead))
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(when)), when


@STARTS
def test_the_start_that_slurm_expects(monkeypatch, ahead, is_believed):
    text, when = moment(ahead)
    monkeypatch.setattr(client, "show_job", lambda job_id: {"Reason": "Resources", "StartTime": text})
    found = SlurmCluster().why_waiting(job("7", "slurm"), PENDING, asks=True)
    assert found.expected == (when if is_believed else None)


@STARTS
def test_one_test_only_call_with_the_script_of_the_job(spec, tmp_path, monkeypatch, ahead, is_believed):
    text, when = moment(ahead)
    said = f"echo 'sbatch: Job 9 to start at {text} using 2 processors on nodes n1' >&2"
    calls = clients(tmp_path, monkeypatch, f"cat > {tmp_path}/script\n{said}")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert SlurmCluster().ask_for_start(spec)() == (when if is_believed else None)
    assert calls.read_text() == "sbatch --test-only\n"
    assert "#SBATCH --partition=gpu" in (tmp_path / "script").read_text()
