"""Status of runs: what is shown of unusual ones, that one cannot hide the others, and who is asked
about what."""

import time

import pytest

from cld_core.files import read_object, write_json
from cld_core.run import state as states
from cld_core.run.checkpoints import weights_file
from cldctl.clusters.base import Answer, SchedulerAway, Survey
from cldctl.runs import removal, survey
from cldctl.runs.status import evaluation_status, named_status, status_of
from cldctl.runs.survey import Answers
from cldctl.runs.why import why
from cldctl.show.runs import details
from tests.support.made_up import (
    bound,
    ended,
    given_up,
    note,
    ordered,
    queued,
    requested,
    run_with,
    started,
    vouch,
    wished,
)
from tests.support.screen import text
from tests.support.scripted import trained


def saying(seen, problem=None):
    """Every job of the cluster `scripted` is in the same phase."""

    class Same(dict):
        def get(self, key, default=None):
            return seen

    return Answers({"scripted": Survey(Same(), problem)})


GONE = saying(Answer("gone"))


@pytest.fixture
def waiting(run):
    note(run, queued())
    return run


@pytest.fixture
def begun(waiting):
    note(waiting, started())
    return waiting


def test_a_run_whose_cluster_is_away_says_how_old_its_state_is(waiting):
    away = saying(Answer("unknown"), "it does not answer")
    row = status_of(waiting, away)
    assert (row.state, row.as_of) == ("PENDING", 1.0)
    assert "PENDING as of" in text(details(row))
    assert status_of(waiting, saying(Answer("unknown"))).as_of is None


def test_the_state_of_an_evaluation(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    work = ordered(run, 10, shards=3)
    assert evaluation_status(work, saying(Answer("unknown")))["state"] == "STOPPED", (
        "nothing was started"
    )
    note(work, queued("7", 0, 1), queued("8", 0))
    survey_of_both = Survey({"7": Answer("gone"), "8": Answer("ending")})
    row = evaluation_status(work, Answers({"scripted": survey_of_both}))
    assert (row["state"], row["shards_done"], row["shards"]) == ("RUNNING", 0, 2)
    assert row["remarks"][0].startswith("1 of 2 shards have no job")
    bound(run, 10, 1.5, shards=3)
    row = evaluation_status(work, GONE)
    assert (row["state"], row["nll"], row["shards_done"]) == ("FINISHED", 1.5, 2)
    weights_file(run, 10).write_bytes(b"other")
    vouch(run, 10)
    row = evaluation_status(work, GONE)
    assert (row["state"], row["cause"], row["nll"]) == ("STOPPED", "outdated", None)
    assert (
        "step 10 was trained again after it was evaluated; re-run the same `cldctl eval`"
        in row["reason"]
    )


def test_the_step_is_that_from_which_a_run_continues_until_it_trains_again(begun):
    note(begun, ended("crashed", 40))
    write_json(begun.progress_file, {"attempt": 0, "step": 40})
    begun.checkpoint_file(20).unlink()
    row = status_of(begun, GONE)
    assert (row.step, row.checkpoint_step) == (40, 10)
    note(begun, requested(100), queued("8"))
    assert status_of(begun, saying(Answer("pending"))).step == 10
    note(begun, started(1, 10, job_id="8"))
    assert status_of(begun, saying(Answer("running"))).step == 10


@pytest.mark.parametrize(
    ("every_s", "ago", "reason"), [(1.0, 5, None), (1.0, 40, "no report for 4"), (30.0, 40, None)]
)
def test_a_rate_is_that_of_a_run_that_reports(begun, every_s, ago, reason):
    told = {
        "attempt": 0,
        "step": 25,
        "steps": 100,
        "steps_per_s": 2.0,
        "every_s": every_s,
        "time": time.time() - ago,
    }
    write_json(begun.progress_file, told)
    suspended = status_of(begun, saying(Answer("suspended")))
    assert (suspended.state, suspended.steps_per_s, suspended.eta_s) == ("RUNNING", None, None)
    row = status_of(begun, saying(Answer("running")))
    assert (row.steps_per_s, row.eta_s) == ((None, None) if reason else (2.0, 37.5))
    assert (row.reason or "").startswith(reason or "")
    assert bool(row.reason) == bool(reason)


def test_a_damaged_recipe_is_shown_once_and_nothing_that_needs_it_is_suggested(begun):
    note(begun, ended("finished", 3))
    begun.recipe_file.write_text("[")
    assert text(details(named_status(begun, GONE))).count("problem") == 1
    found = why(begun)
    assert sum("recipe.yaml" in problem for problem in found.row.problems) == 1
    assert found.do.startswith("restore recipe.yaml")
    assert {command.split()[0] for command in found.next} <= {"logs", "report"}


def test_what_a_run_does_is_what_its_own_attempt_reports(waiting):
    assert status_of(waiting, saying(Answer("pending"))).phase == "waiting for the queue"
    trains = saying(Answer("running"))
    assert status_of(waiting, trains).phase == "starting"
    note(waiting, started())
    told = {
        "attempt": 0,
        "step": 12,
        "steps": 100,
        "phase": "saving",
        "loss": 2.0,
        "smoothed_loss": 1.5,
    }
    write_json(waiting.progress_file, {**told, "time": time.time()})
    row = status_of(waiting, trains)
    assert (row.state, row.phase, row.loss, row.smoothed_loss) == ("RUNNING", "saving", 2.0, 1.5)
    note(waiting, ended("preempted", 12), started(1, 12))
    assert status_of(waiting, trains).phase == "starting", "the report is of the attempt before"


def test_a_run_that_is_being_submitted_alone_or_with_its_group(tmp_path, monkeypatch):
    run = run_with(tmp_path / "mine")
    write_json(run.identity_file, {**read_object(run.identity_file), "group": "seeds"})
    assert status_of(run, Answers({})).state == "FAILED"
    for locked in (run.path, run.path.parent / ".groups/seeds"):
        with monkeypatch.context() as patch:
            patch.setattr(states, "is_locked", lambda folder, locked=locked: folder == locked)
            assert status_of(run, Answers({})).state == "PENDING"


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("away", "nobody answers"),
        ("broken", "cluster 'scripted' could not be asked: RuntimeError: a bug"),
    ],
)
def test_a_cluster_that_cannot_be_asked_spoils_no_other(tmp_path, scripted, how, problem):
    getattr(scripted, how).add("scripted")
    runs = [
        trained(run_with(tmp_path / name, 10), name, cluster=name) for name in ("scripted", "other")
    ]
    answers = survey.of_runs(runs)
    assert [answers.of(job).phase for run in runs for job, _ in survey.jobs_of(run)] == [
        "unknown",
        "running",
    ]
    assert answers.problem == problem
    answers.require(["other"], "Nothing happened")
    with pytest.raises(SchedulerAway, match="Nothing happened; try again when it answers"):
        answers.require(["other", "scripted"], "Nothing happened")


LONG_AGO = 1000.0
CRASHED = ended("crashed", time=LONG_AGO)


def begun_long_ago(path, cluster="scripted"):
    run = run_with(path, 10)
    note(run, queued(cluster=cluster, time=LONG_AGO), started(time=LONG_AGO))
    return run


@pytest.mark.parametrize(
    ("then", "is_settled"),
    [
        ([], False),
        ([CRASHED], True),
        ([ended("preempted", time=LONG_AGO)], False),
        ([ended("crashed")], False),
        ([CRASHED, wished("crashed", time=LONG_AGO)], False),
        ([CRASHED, given_up("often", time=LONG_AGO)], True),
    ],
)
def test_a_job_whose_end_the_ledger_knows_is_settled(tmp_path, then, is_settled):
    """Hundreds of failed runs, whose jobs Slurm has forgotten, are asked about no more."""
    run = begun_long_ago(tmp_path / "a")
    note(run, *then)
    assert [settled for _, settled in survey.jobs_of(run)] == [is_settled]


def test_of_a_run_that_was_copied_to_where_no_slurm_is_the_end_must_be_known(
    tmp_path, monkeypatch, scripted
):
    monkeypatch.setenv("PATH", str(tmp_path))
    run = begun_long_ago(tmp_path / "a", "slurm")
    with pytest.raises(
        SchedulerAway, match=r"no squeue on this machine.*try again on a machine with Slurm"
    ):
        removal.plan([run])
    note(run, CRASHED)
    removal.remove(*removal.plan([run]))
