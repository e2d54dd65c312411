"""What rank 0 of a training job does before and after it, with a launcher that is made up."""

import pytest

from cld_core.recipe import load
from cld_core.run import RunFolder
from cld_core.run.events import Ended, Explained, GivenUp, JobRef, Requeued, Started, Submitted, TurnedAway
from cldctl.clusters.base import After, InJob, SchedulerAway, SchedulerRefused
from cldctl.clusters.debug import DebugCluster
from cldctl.jobs import successor
from cldctl.jobs.train import TrainWork, explain_previous, go_on
from tests.support.paths import RECIPES

REF = JobRef(cluster="made-up", job_id="7", restarts=True)


class Launcher(DebugCluster):
    name = "made-up"

    def __init__(self, error: Exception | None = None):
        self.submitted, self.cancelled, self.error = [], [], error

    def submit(self, spec, tasks, note):
        if self.error:
            raise self.error
        self.submitted.append((spec, tasks))
        note([JobRef(cluster=self.name, job_id="8", restarts=True)])

    def cancel(self, jobs):
        self.cancelled += [job.job_id for job in jobs]


class Inside(InJob):
    in_process = False
    cause = None
    refusal = None

    def why_ended(self, attempt):
        return self.cause

    def requeue(self, *, delay_s=0.0, exclude=(), within_s=0.0):
        if self.refusal:
            raise self.refusal
        self.delay_s = delay_s


@pytest.fixture
def run(tmp_path):
    run = RunFolder.create(tmp_path / "mine", load(RECIPES / "toy.yaml"), {"created": 1.0})
    run.ledger.append(Started(attempt=0, job_id="7", step=0))
    return run


@pytest.fixture
def job():
    return Inside(cluster=Launcher(), ref=REF)


@pytest.mark.parametrize(
    ("cause", "asked"),
    [
        (None, True),
        ("crashed", True),
        ("killed", True),
        ("terminated", True),
        ("preempted", False),
        ("out_of_memory", False),
    ],
)
def test_an_end_without_an_explanation_is_explained(run, job, cause, asked):
    if cause is not None:
        run.ledger.append(Ended(attempt=0, cause=cause, step=3))
    job.cause = "node_failure"
    explain_previous(run, job)
    assert isinstance(run.ledger.events()[-1], Explained) == asked


def test_our_own_requeue_explains_nothing(run, job):
    run.ledger.append(Ended(attempt=0, cause="crashed", step=3))
    run.ledger.append(Requeued(job_id="7", cause="crashed"))
    job.cause = "requeued"
    explain_previous(run, job)
    assert isinstance(run.ledger.events()[-1], Requeued)


def test_a_time_limit_before_the_first_step_would_come_again(run, job):
    run.ledger.append(Ended(attempt=0, cause="timeout", step=0))
    assert not go_on(run, job, "timeout")
    assert isinstance(run.ledger.events()[-1], GivenUp)
    run.ledger.append(Started(attempt=1, job_id="7", step=0))
    run.ledger.append(Ended(attempt=1, cause="timeout", step=30))
    assert go_on(run, job, "timeout", delay_s=5.0)
    assert job.delay_s == 5.0
    assert isinstance(run.ledger.events()[-1], Requeued)


@pytest.mark.parametrize("error", [SchedulerRefused("no"), SchedulerAway("nobody answers")])
def test_a_requeue_that_fails_is_noted(run, job, error):
    run.ledger.append(Ended(attempt=0, cause="preempted", step=3))
    job.refusal = error
    assert not go_on(run, job, "preempted")
    assert run.ledger.history().given_up == "the job could not be requeued; see cldctl logs"


def test_one_successor_waits_for_a_job_to_fail_and_is_withdrawn_with_the_run(run, job):
    work = TrainWork(str(run.path))
    run.ledger.append(Submitted(job=REF))
    for _ in range(2):
        successor.submit(run, job, work)
    ((spec, tasks),) = job.cluster.submitted
    assert spec.after == After((REF,), "failed")
    assert tasks[0].work == work
    assert [ref.job_id for ref in run.ledger.history().successors_of("7")] == ["8"]
    successor.withdraw(run, job)
    assert job.cluster.cancelled == ["8"]
    assert isinstance(run.ledger.events()[-1], TurnedAway)


def test_training_goes_on_without_a_successor_that_was_refused(run, capsys):
    job = Inside(cluster=Launcher(SchedulerRefused("too many jobs.")), ref=REF)
    successor.submit(run, job, TrainWork(str(run.path)))
    assert "mine has no successor: too many jobs." in capsys.readouterr().out
    assert run.ledger.history().successors_of("7") == []
