"""How a Slurm is set up, and what that means for a run: preemption, time limits."""

import pytest

from cld_core.errors import RecipeError
from cldctl.clusters.base import JobSpec
from cldctl.clusters.slurm import client, doctor, script
from cldctl.clusters.slurm.client import Reply
from tests.support.recipes import toy_recipe

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
SLURM = client.settings_in(SCONTROL)
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
        partition = SPOT | {"PreemptMode": mode}
        return doctor.on_preemption("it", partition, [partition, GPU], SLURM | dict(changes), 1.0)

    assert outcome("OFF").verdict == "ok"
    assert outcome("").found.startswith("SUSPEND"), (
        "the cluster's mode, since the partition has none"
    )
    assert "requeued by the run itself" in outcome("CANCEL").found
    assert "not restarted" in outcome("CANCEL", ("SlurmctldParameters", "")).found
    assert "by QOS" in outcome("REQUEUE", ("PreemptType", "preempt/qos")).found
    highest = doctor.on_preemption("it", GPU, [SPOT, GPU], SLURM, 1.0)
    assert highest.found == "never: no partition has a higher PriorityTier"


def test_preemption_by_qos():
    every = doctor.parse_qos(
        "normal||cluster|00:00:00\nspot||REQUEUE|00:02:00\nurgent|spot,normal|cluster|00:00:00\n"
    )
    normal, spot, urgent = every
    setup = SLURM | {"PreemptType": "preempt/qos", "PreemptMode": "CANCEL"}

    def judged(qos):
        return doctor.on_preemption_by_qos("it", qos, every, setup, 80.0)

    assert (judged(spot).verdict, judged(urgent).verdict, judged(normal).verdict) == (
        "warn",
        "ok",
        "fail",
    )
    assert (
        "by urgent: REQUEUE: SIGUSR2 at once, SIGTERM after 120 s, SIGKILL after 150 s"
        in judged(spot).found
    )
    assert "by urgent: CANCEL" in judged(normal).found, "the cluster's mode, since the QOS has none"


def test_time_limits():
    assert "30 min, at most unlimited" in doctor.at_the_limit("it", GPU, 90).found
    assert "cluster.time_min" in doctor.at_the_limit("it", GPU, 1790).advice
    assert doctor.at_the_limit("it", SPOT, 36 * 3600).verdict == "fail"


def test_what_a_job_gets_that_asks_for_nothing():
    def found(*changes, refusal=""):
        return doctor.without_limits("it", SPOT, SLURM | dict(changes), refusal)

    assert found().found == "time limit 36 h, memory unlimited"
    memory = ("SelectTypeParameters", "CR_CORE_MEMORY")
    little = found(memory, ("DefMemPerCPU", "1000"), ("EnforcePartLimits", "NO"))
    assert (little.verdict, "1000 MB (DefMemPerCPU)" in little.found) == ("warn", True)
    assert "waits for ever" in little.found


def test_several_partitions_are_one_key_of_the_recipe(monkeypatch, tmp_path):
    recipe = toy_recipe("cluster.partition=spot,gpu")
    assert (
        script.parameters(JobSpec(name="it", logs=tmp_path, size=recipe.cluster))["partition"]
        == "spot,gpu"
    )
    with pytest.raises(RecipeError, match="with commas between them"):
        toy_recipe("cluster.partition=[spot,gpu]")
    texts = {"config": SCONTROL, "partition": PARTITIONS}
    monkeypatch.setattr(
        client, "run", lambda command, *more, **options: Reply(0, texts.get(command[-1], ""))
    )

    def seen(names):
        asked = doctor.DoctorOptions(
            slowest_save_s=None, notice_s=90, size=recipe.cluster, partition=names, job=False
        )
        return {check.name: check for check in doctor.checks(tmp_path, asked)}

    assert {"partition spot: preemption", "partition gpu (default): preemption"} <= seen(
        "spot,gpu"
    ).keys()
    assert seen("spot,cpu")["partitions"].found == "there is no partition cpu"
