"""How many tasks an array may have: what Slurm 24.11 printed, and what it says when there are too many."""

from dataclasses import replace

import pytest

from cld_core.errors import RecipeError
from cldctl.clusters.records import JobSpec, SchedulerRefused, TooManyTasks
from cldctl.clusters.slurm import client, limits
from cldctl.clusters.slurm.cluster import SlurmCluster, _explained

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
    assert [limit.tasks for limit in limits.of_jobs(text, "ann", account, "normal")] == most


@pytest.fixture
def said(monkeypatch):
    """What Slurm's clients print, by their last argument but one; and what they were asked."""
    asked, answers = [], {"show config": CONFIG}

    def output_of(command):
        asked.append(" ".join(command[1:3]))
        return answers.get(asked[-1])

    limits.most_tasks.cache_clear()
    monkeypatch.setattr(client, "output_of", output_of)
    monkeypatch.setattr(limits, "user_name", lambda number: "ann")
    yield answers, asked
    limits.most_tasks.cache_clear()


def spec(tmp_path, **size):
    from cld_core.config.cluster import ClusterSpec

    return replace(JobSpec(name="mine", logs=tmp_path / "logs", size=ClusterSpec()), size=ClusterSpec(**size))


def test_the_tightest_limit_counts_and_is_named(said, tmp_path):
    answers, asked = said
    answers["show assoc_mgr"] = shown(association("deep", each="12(5)", **ANN))
    cluster = SlurmCluster()
    assert cluster.max_tasks(spec(tmp_path)) == 7
    why = "at most 12 jobs may be in the queue (MaxSubmitJobs of your association), and 5 are"
    assert cluster.why_no_more(spec(tmp_path)) == why
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
def test_without_limits_of_jobs_an_array_is_as_long_as_arrays_may_be(said, tmp_path, config, most, why):
    said[0]["show config"] = config
    assert SlurmCluster().max_tasks(spec(tmp_path)) == most
    SlurmCluster().check(spec(tmp_path), most)
    with pytest.raises(RecipeError, match=f"Submit at most {most}"):
        SlurmCluster().check(spec(tmp_path), most + 1)
    assert why in SlurmCluster().why_no_more(spec(tmp_path))


@pytest.mark.parametrize(
    ("said_first", "limit"),
    [
        ("AssocMaxSubmitJobLimit", "AssocMaxSubmitJobLimit"),
        ("QOSMaxSubmitJobPerUserLimit", "QOSMaxSubmitJobPerUserLimit"),
        ("Batch job submission failed: Invalid job array specification", "MaxArraySize"),
        ("invalid partition specified: nowhere", None),
    ],
)
def test_what_sbatch_says_if_fewer_tasks_would_do(said_first, limit):
    error = (
        f"sbatch: error: {said_first}\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy"
    )
    refusal = _explained("mine", error, 0.0)
    assert type(refusal) is (SchedulerRefused if limit is None else TooManyTasks)
    assert getattr(refusal, "limit", None) == limit
