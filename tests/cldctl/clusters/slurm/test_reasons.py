"""Why a job waits, in words."""

import pytest

from cldctl.clusters.base import Held, Seen
from cldctl.clusters.slurm.poll import explained

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
    assert isinstance(found, Held) == ("held" in found.reason or "never" in found.reason)


def test_without_scontrol_the_survey_s_word_is_explained_and_without_any_nothing():
    assert "higher priority" in explained("7", {}, Seen("pending", reason="Priority")).reason
    assert explained("7", {}, PENDING) is None
    down = {"Reason": "ReqNodeNotAvail,_UnavailableNodes:gpu_a1"}
    assert "UnavailableNodes:gpu_a1" in explained("7", down, PENDING).reason
    assert explained("7", {"Reason": "a{b}"}, PENDING).reason == "Slurm says a{b}"
