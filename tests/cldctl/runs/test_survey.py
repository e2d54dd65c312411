"""Asking clusters about many runs: one of them spoils no other."""

import pytest

from cld_core.errors import UsageError
from cld_core.run.events import (
    Ended,
    GivenUp,
    JobRef,
    Requeued,
    Started,
    Submitted,
    TurnedAway,
)
from cldctl.clusters.records import SchedulerAway
from cldctl.runs import survey
from tests.support.made_up import run_with
from tests.support.scripted import trained


@pytest.fixture
def runs(tmp_path, scripted):
    return [
        trained(run_with(tmp_path / name, 10), job_id, cluster=cluster)
        for name, job_id, cluster in (("a", "1", "scripted"), ("b", "2", "other"))
    ]


def phases(answers, runs):
    return [answers.of(job).phase for run in runs for job, _ in survey.jobs_of(run)]


def test_a_job_that_was_turned_away_is_asked_about(runs, scripted):
    runs[0].ledger.append(Submitted(job=JobRef(cluster="scripted", job_id="3")))
    runs[0].ledger.append(TurnedAway(job_id="3", reason="withdrawn", why="withdrawn"))
    scripted.phases["3"] = "pending"
    assert phases(survey.of_runs(runs), runs) == ["running", "pending", "running"]


@pytest.mark.parametrize(
    ("how", "problem"),
    [("away", "nobody answers"), ("broken", "cluster 'scripted' could not be asked: RuntimeError: a bug")],
)
def test_a_cluster_that_cannot_be_asked_spoils_no_other(runs, scripted, how, problem):
    getattr(scripted, how).add("scripted")
    answers = survey.of_runs(runs)
    assert phases(answers, runs) == ["unknown", "running"]
    assert answers.problem == problem
    answers.require(["other"], "Nothing happened")
    with pytest.raises(SchedulerAway, match="Nothing happened; try again when it answers"):
        answers.require(["other", "scripted"], "Nothing happened")


LONG_AGO = 1000.0
CRASHED = Ended(time=LONG_AGO, attempt=0, cause="crashed")


@pytest.mark.parametrize(
    ("then", "is_settled"),
    [
        ([], False),
        ([CRASHED], True),
        ([Ended(time=LONG_AGO, attempt=0, cause="cancelled")], True),
        ([Ended(time=LONG_AGO, attempt=0, cause="preempted")], False),
        ([Ended(attempt=0, cause="crashed")], False),
        (
            [Ended(time=LONG_AGO, attempt=0, cause="crashed"), Requeued(time=LONG_AGO, job_id="7", cause="crashed")],
            False,
        ),
        ([Ended(time=LONG_AGO, attempt=0, cause="crashed"), GivenUp(time=LONG_AGO, job_id="7", reason="often")], True),
    ],
)
def test_a_job_whose_end_the_ledger_knows_is_settled(tmp_path, then, is_settled):
    """Hundreds of failed runs, whose jobs Slurm has forgotten, are asked about no more."""
    run = run_with(tmp_path / "a", 10)
    run.ledger.append(Submitted(time=LONG_AGO, job=JobRef(cluster="scripted", job_id="7")))
    run.ledger.append(Started(time=LONG_AGO, attempt=0, job_id="7", step=0))
    for event in then:
        run.ledger.append(event)
    assert [settled for _, settled in survey.jobs_of(run)] == [is_settled]


def test_an_unknown_cluster_will_never_answer(tmp_path, runs):
    trained(run_with(tmp_path / "c", 10), "3", cluster="moon")
    answers = survey.of_runs([*runs, run_with(tmp_path / "d"), *map(type(runs[0]), [tmp_path / "c"])])
    with pytest.raises(UsageError, match=r"'moon' is not known.*Use the cldctl that submitted the job\.") as raised:
        answers.require(answers.surveys, "Nothing happened")
    assert "try again" not in str(raised.value)
