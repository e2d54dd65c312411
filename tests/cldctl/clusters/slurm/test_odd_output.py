"""What Slurm's clients print may be cut, garbled or of another version: every reader copes, and guesses nothing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cld_core.run.events import JobRef
from cldctl.clusters.records import DoctorOptions, MeasuredSaves
from cldctl.clusters.slurm import client, doctor, limits, polling
from cldctl.clusters.slurm.client import Answer
from cldctl.clusters.slurm.cluster import SlurmCluster
from tests.fuzz.mutations import damaged

SQUEUE = "12|RUNNING|n[1-2]|None\n13_4|PENDING||Priority\n13_5|COMPLETED|n3|None\n14|CANCELLED|n1|None\n"
SACCT = "12|PREEMPTED|n1\n12|NODE_FAIL|n1\n12|CANCELLED by 0|n2\n14|COMPLETED|n1\n"
JOB = (
    "JobId=12 JobName=toy UserId=ann(1000) Requeue=1 Restarts=1 ExitCode=0:0 JobState=RUNNING Reason=None "
    "EndTime=2026-11-25T00:57:43 PreemptTime=None ExcNodeList=(null) Comment=a=b\n"
)
SUBMITTED = "12|2026-11-25T00:57:43\n13|2026-11-25T01:57:43\n"
CONFIG = (
    "SLURM_VERSION = 23.11.4\nClusterName = c\nPreemptType = preempt/partition_prio\nPreemptMode = GANG,REQUEUE\n"
    "KillWait = 30 sec\nJobRequeue = 1\nSlurmctldParameters = preempt_send_user_signal\nMaxArraySize = 1001\n"
)
PARTITION = (
    "PartitionName=low Default=YES State=UP Nodes=n[1-2] PriorityTier=1 PreemptMode=REQUEUE GraceTime=90 "
    "DefaultTime=01:00:00 MaxTime=2-00:00:00\n"
)
QOS = "normal||cluster|00:00:00\nhigh|normal|REQUEUE|00:01:30\n"

# The same cases in every run, however busy the machine; tests/fuzz has new ones for hours.
steadily = settings(derandomize=True, deadline=None, max_examples=100)

PHASES = {"pending", "running", "suspended", "ending", "gone", "unknown"}
# Lines of Slurm with one to four changes, and anything at all.
ODD = {"\u0661\u0662", "9" * 5000, "\u00b2", "-1", "nan", "", "|", "=", "\x00", "\ud800", "1970-01-01T00:00:00"}


def text_like(example: str) -> st.SearchStrategy[str]:
    pieces = st.sampled_from([*example.split("|"), *example.split(), *ODD, "|", "\n", " ", "="])
    changed = st.integers(0, 2**32).map(
        lambda seed: damaged(random.Random(seed), example.encode()).decode(errors="replace")
    )
    cut = st.integers(0, len(example)).map(lambda end: example[:end])
    return st.one_of(st.text(), cut, changed, st.lists(pieces, max_size=20).map("".join))


@steadily
@given(st.integers(0, len(SQUEUE)))
def test_a_torn_answer_never_ends_a_job(end):
    """Whatever is cut off, a job that the whole answer shows in the queue does not look gone."""
    whole, cut = polling.parse_squeue(SQUEUE), SQUEUE[:end]
    for job, seen in polling.parse_squeue(cut).items():
        assert seen.phase in (whole[job].phase, "unknown"), "a line is whole, or left out"
    assert polling.is_torn(cut) == (cut != "" and cut[-1] != "\n")


class Printed:
    """Clients that print these texts, whatever they are asked."""

    def __init__(self, *texts: str) -> None:
        self.random, self.texts = random.Random(0), texts

    def __call__(self, command, stdin=""):
        return Answer(0, self.random.choice(self.texts))


@steadily
@given(
    st.lists(
        st.one_of(*map(text_like, (SQUEUE, SACCT, JOB, SUBMITTED, CONFIG, PARTITION, QOS))), min_size=1, max_size=4
    )
)
def test_all_that_asks(texts):
    jobs = [JobRef(cluster="slurm", job_id=name) for name in ("12", "13_4", "14", "15")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "run", Printed(*texts))
        survey = SlurmCluster().survey(jobs, settled=jobs[2:3], max_age_s=0)
        assert {survey.of(job).phase for job in jobs} <= PHASES
        client.submitted_since("toy", 0.0)
        client.show_job("12")
        limits.most_tasks.cache_clear()
        assert limits.most_tasks().tasks > 0
        polling.states_of_starts("12")
        asked = DoctorOptions(job=False)
        assert list(doctor.checks(None, asked, MeasuredSaves(slowest_s=None, notice_s=90)))
    limits.most_tasks.cache_clear()


@pytest.mark.parametrize("line", ["12|N/A", "12", "1x|2026-11-25T00:57:43"])
def test_a_job_submitted_at_an_unreadable_time_is_not_forgotten(monkeypatch, line):
    monkeypatch.setattr(
        client, "run", lambda command, stdin="": Answer(0, f"Welcome to this cluster\n{SUBMITTED}{line}\n")
    )
    assert client.submitted_since("toy", 0.0) is None
    monkeypatch.setattr(client, "run", lambda command, stdin="": Answer(0, f"Welcome to this cluster\n{SUBMITTED}"))
    assert client.submitted_since("toy", 0.0) == ["12", "13"]
