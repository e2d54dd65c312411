"""The job that waits for another one to fail, with a launcher that is made up."""

import pytest

from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.request import EvalRequest
from cld_core.run.events import JobRef, Submitted, TurnedAway
from cldctl.clusters.records import After, SchedulerAway, SchedulerRefused, Seen, Survey
from cldctl.jobs import successor
from cldctl.jobs.train import TrainWork
from tests.support.made_up import run_with
from tests.support.scripted import REF, inside


@pytest.fixture
def run(tmp_path):
    run = run_with(tmp_path / "mine", overrides=("train.steps=20",))
    run.ledger.append(Submitted(job=REF))
    return run


@pytest.fixture
def job():
    return inside()


def test_one_successor_waits_for_a_job_to_fail_and_is_withdrawn_with_the_run(run, job):
    work = TrainWork(str(run.path))
    for _ in range(2):
        successor.submit(run, job, work)
    ((spec, tasks),) = job.cluster.submissions
    assert spec.after == After((REF,), "failed")
    assert tasks[0].work == work
    (ref,) = run.ledger.history().successors_of("7")
    assert ref.job_id == "8"
    assert not successor.is_withdrawn(run, ref)
    successor.withdraw(run, job)
    assert job.cluster.calls == [("cancel", ["8"])]
    assert isinstance(run.ledger.events()[-1], TurnedAway)
    assert successor.is_withdrawn(run, ref)


def test_training_goes_on_without_a_successor_that_was_refused(run, capsys):
    successor.submit(run, inside(SchedulerRefused("too many jobs.")), TrainWork(str(run.path)))
    assert "mine has no successor: too many jobs." in capsys.readouterr().out
    assert run.ledger.history().successors_of("7") == []


@pytest.mark.parametrize("is_away", [False, True])
def test_evaluations_wait_for_the_successor_too(run, job, monkeypatch, capsys, is_away):
    work = Evaluation(EvalRequest.of(run.recipe(), ("elbo",), 20).save(run))
    work.ledger.append(Submitted(job=JobRef(cluster="scripted", job_id="9"), shards=(0,)))

    def survey(jobs, *, settled=(), max_age_s=30.0):
        if is_away:
            raise SchedulerAway("nobody answers.")
        return Survey({("scripted", "9"): Seen("pending")})

    redirected = []
    monkeypatch.setattr(job.cluster, "survey", survey)
    monkeypatch.setattr(job.cluster, "redirect", lambda jobs, after: redirected.append((jobs, after)))
    successor.submit(run, job, TrainWork(str(run.path)))
    (ref,) = run.ledger.history().successors_of("7")
    if is_away:
        assert f"{work.name} does not wait for job 8: nobody answers." in capsys.readouterr().out
    else:
        ((waiting, after),) = redirected
        assert [waiting_job.job_id for waiting_job in waiting] == ["9"]
        assert after == After((ref,))
