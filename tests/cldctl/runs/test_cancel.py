"""Ending several runs at once, on clusters that are made up."""

from unittest.mock import Mock

import pytest

from cld_core.errors import UsageError
from cld_core.run.evaluations import Axis, Sweep, SweepCell
from cld_core.run.events import Cancelled, Refused
from cldctl.clusters.base import Answer, SchedulerAway, Survey
from cldctl.runs import cancel
from tests.support.failing import FULL_DISK
from tests.support.made_up import ended, note, ordered, queued, run_with
from tests.support.scripted import Scripted, trained
from tests.support.tools import invoke


def run_of(path, job_id, phase="running", cluster="scripted"):
    return trained(run_with(path, 10), job_id, phase, cluster)


def waited(endings, grace_s=60.0):
    over = []
    cancel.wait([ending for ending in endings if ending.jobs], over.append, grace_s)
    return over


def test_several_runs_and_their_evaluations_end_at_the_same_time(tmp_path, scripted):
    first, second = run_of(tmp_path / "a", "1"), run_of(tmp_path / "b", "2")
    work = evaluated(second, "3")
    scripted.phases["3"] = "pending"
    done = run_of(tmp_path / "c", "4", "gone")
    note(done, ended("finished", 10))
    endings = cancel.cancel([first, second, done])
    assert scripted.calls == [("cancel", ["1", "2", "3"])]
    assert [ending.trains for ending in endings] == [True, True, False]
    assert [ending.remark for ending in endings] == ["", "", "nothing is running (finished)"]
    assert all(ending.is_over for ending in waited(endings))
    assert isinstance(second.ledger.events()[-1], Cancelled)
    assert work.ledger.history().cancelled == {"3"}


def evaluated(run, job_id, metric="elbo", logs=""):
    work = ordered(run, 10, metric)
    note(work, queued(job_id, 0, logs=logs))
    Scripted.phases[job_id] = "running"
    return work


def test_one_evaluation_ends_and_the_others_and_the_training_go_on(tmp_path, scripted):
    run = run_of(tmp_path / "a", "1")
    work, other = evaluated(run, "2"), evaluated(run, "3", "loss")
    done = invoke("cancel a --eval elbo")
    assert scripted.calls == [("cancel", ["2"])]
    assert f"waiting for evaluation {work.name} of a to end (job 2)" in done.stderr
    assert f"a: evaluation {work.name} is cancelled" in done.stderr
    assert [it.ledger.history().cancelled for it in (work, other, run)] == [{"2"}, set(), set()]
    again = invoke(f"cancel a --eval {work.name}")
    assert f"a: nothing is running ({work.name}: not complete)" in again.stderr


def test_the_beginning_of_a_sweep_names_its_evaluations(tmp_path, scripted):
    run = run_of(tmp_path / "a", "1")
    works = [evaluated(run, "2"), evaluated(run, "3", "loss")]
    axis = Axis(key="eval.seed", values=("0", "1"))
    cells = [
        SweepCell(values={axis.key: value}, evaluation=work.name)
        for value, work in zip(axis.values, works, strict=True)
    ]
    Sweep(axes=(axis,), cells=tuple(cells)).save(run)
    invoke("cancel a --eval sweep-")
    assert scripted.calls == [("cancel", ["2", "3"])]


def test_what_is_left_after_the_grace_is_killed(tmp_path, scripted):
    run = run_of(tmp_path / "a", "1")
    scripted.stubborn = {"1"}
    (ending,) = waited(cancel.cancel([run]), grace_s=0.0)
    assert scripted.calls[-1] == ("kill", ["1"])
    assert ending.is_over, "hooks are told"


def test_a_full_disk_keeps_nothing_from_being_cancelled(tmp_path, scripted, monkeypatch, capsys):
    run = run_of(tmp_path / "a", "1")
    full = Mock(side_effect=FULL_DISK)
    monkeypatch.setattr("cld_core.run.ledger.append_line", full)
    cancel.cancel([run])
    assert scripted.calls == [("cancel", ["1"])]
    assert (
        "could not note that job 1 of a is cancelled (No space left on device)"
        in capsys.readouterr().err
    )


def test_nothing_is_cancelled_unless_everything_can_be(tmp_path, scripted):
    runs = [run_of(tmp_path / "a", "1"), run_of(tmp_path / "b", "2", "unknown")]
    with pytest.raises(UsageError, match=r"b was started on far\. Cancel it there\."):
        cancel.cancel(runs)
    scripted.away.add("scripted")
    with pytest.raises(
        SchedulerAway, match=r"nobody answers\. Nothing was cancelled; try again when it answers\."
    ):
        cancel.cancel(runs)
    assert scripted.calls == []
    assert not any(run.ledger.history().cancelled for run in runs)


def test_of_jobs_that_the_cluster_refuses_to_end_together_the_others_end(tmp_path, scripted):
    run = run_of(tmp_path / "a", "1")
    refused, other = evaluated(run, "2", logs=run.evals), evaluated(run, "3", "loss")
    scripted.refused.add("2")
    done = invoke("cancel a", code=4)
    assert "a: no\n" in done.stderr
    assert "a: cancelled; last checkpoint: step 10" in done.stderr
    works = (run, other, refused)
    assert [work.ledger.history().cancelled for work in works] == [{"1"}, {"3"}, set()]
    noted = [
        event for work in works for event in work.ledger.events() if isinstance(event, Refused)
    ]
    assert [event.job_id for event in noted] == ["2"]


@pytest.mark.parametrize(
    ("answers", "left", "cancels"),
    [
        ([Answer("gone"), Answer("pending"), Answer("gone"), Answer("gone"), Answer("gone")], 0, 2),
        ([Answer("gone", ended="cancelled"), Answer("gone")], 1, 1),
    ],
)
def test_a_job_that_looks_gone_for_a_moment_has_not_ended(
    tmp_path, scripted, monkeypatch, answers, left, cancels
):
    """As one that is about to return to the queue: it is cancelled there, too."""
    monkeypatch.setattr(cancel, "POLL_S", 0.0)
    monkeypatch.setattr(Scripted, "looks_to_believe_an_end", 3)
    monkeypatch.setattr(Scripted, "question_s", 0.0)
    run = run_of(tmp_path / "a", "1")
    note(run, queued("1", logs=run.logs))
    endings = cancel.cancel([run])
    monkeypatch.setattr(Scripted, "survey", lambda self, jobs, **how: Survey({"1": answers.pop(0)}))
    assert [ending.is_over for ending in waited(endings)] == [True]
    assert (len(answers), scripted.calls) == (left, [("cancel", ["1"])] * cancels)
