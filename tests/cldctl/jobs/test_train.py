"""What a job does before and after its work, with a launcher that is made up; how sharded work is
divided."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from cld_core.errors import CheckpointError, UnusableSamplesError, UsageError
from cld_core.evaluate.request import request_of
from cld_core.files import write_json
from cld_core.records import to_plain
from cld_core.run.checkpoints import FORMAT, Content, Sidecar
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import GivenUp, TurnedAway, Wished
from cld_core.run.work import Outcome, Training, open_work
from cld_core.stop import StopCode, StopFlag
from cldctl.clusters.base import Requeue
from cldctl.clusters.debug import DebugCluster
from cldctl.jobs import specs
from cldctl.jobs.process import BLIND, HOPELESS
from cldctl.jobs.shards import Piece, ShardsWork, divided
from cldctl.jobs.task import (
    explain_previous,
    note_successor,
    wish_after_stop,
    wish_requeue,
    withdraw_successors,
)
from cldctl.jobs.train import TrainWork
from tests.support.failing import FULL_DISK
from tests.support.made_up import ended, note, ordered, queued, run_with, started, wished
from tests.support.recipes import toy_recipe
from tests.support.scripted import REF, inside


@pytest.fixture
def run(tmp_path):
    run = run_with(tmp_path / "mine")
    note(run, started())
    return run


@pytest.fixture
def job():
    return inside()


@pytest.mark.parametrize(
    ("cause", "asked"),
    [(None, True), ("crashed", True), ("terminated", True), ("preempted", False)],
)
def test_an_end_without_an_explanation_is_explained(run, job, cause, asked):
    if cause is not None:
        note(run, ended(cause, 3))
    job.cause = "node_failure"
    explain_previous(run, job)
    assert (run.ledger.history().last.cause == "node_failure") == asked


@pytest.mark.parametrize(
    ("found", "noted"),
    [("preempted", "preempted"), ("requeued", "terminated")],
)
def test_only_a_preemption_explains_the_end_before_its_own_requeue(run, job, found, noted):
    note(run, ended("terminated", 3, detail="SIGUSR2"), wished("terminated"))
    job.cause = found
    explain_previous(run, job)
    assert run.ledger.history().last.cause == noted


def test_a_time_limit_before_the_first_step_would_come_again(run, job):
    note(run, ended("timeout", 0))
    wish_requeue(Training(run.path), job, "timeout")
    assert isinstance(run.ledger.events()[-1], GivenUp)
    note(run, started(1), ended("timeout", 30, attempt=1))
    wish_requeue(Training(run.path), job, "timeout", delay_s=5.0)
    assert job.wishes == [Requeue(5.0)]
    assert isinstance(run.ledger.events()[-1], Wished)


def test_a_withdrawn_job_leaves_at_once(run, capsys):
    """The scheduler did not take the cancellation, and started it later."""
    note(
        run,
        queued(successor_of="6"),
        TurnedAway(job_id="7", reason="withdrawn", why="withdrawn"),
    )
    before = run.ledger.events()
    TrainWork(str(run.path))(inside(size=2), StopFlag())
    assert "job 7 was withdrawn" in capsys.readouterr().out
    assert run.ledger.events() == before


def test_a_job_of_another_size_than_the_recipes_does_not_train(run, capsys):
    """Two ranks that do not know of each other would train the run twice."""
    with pytest.raises(SystemExit, match=str(UsageError.exit_code)):
        TrainWork(str(run.path))(inside(size=2), StopFlag())
    said = capsys.readouterr().err
    assert "mine: the job has 2 process(es), and the recipe asks for 1. Set cluster.nodes" in said


@pytest.fixture
def short(tmp_path):
    short = run_with(tmp_path / "mine", overrides=("train.steps=20",))
    note(short, queued())
    return short


def test_the_successor_is_noted_once_and_withdrawn_with_the_run(short, job):
    """The batch script has submitted it."""
    note_successor(short, job)
    assert short.ledger.history().successors_of("7") == []
    job.next = replace(REF, job_id="8")
    for _ in range(2):
        note_successor(short, job)
    assert short.ledger.history().successors_of("7") == [job.next]
    assert short.ledger.history().turned_away == {}
    job.cluster.refused.add("8")
    withdraw_successors(Training(short.path), job)
    assert short.ledger.history().turned_away == {"8": "withdrawn"}
    assert job.cluster.calls == [("cancel", ["8"])], "before the batch script can be killed"


@pytest.mark.parametrize(
    ("cause", "code", "wishes"),
    [
        ("finished", StopCode.NONE, []),
        ("preempted", StopCode.USR2, [Requeue()]),
        ("cancelled", StopCode.TERM, []),
        ("node_failure", StopCode.TERM, []),
        # Nobody knows yet what the signal meant.
        ("terminated", StopCode.TERM, [Requeue(after_limit=True)]),
    ],
)
def test_what_a_training_that_was_stopped_wishes_for(short, job, cause, code, wishes):
    wish_after_stop(Training(short.path), job, code, cause)
    assert job.wishes == wishes


def saved(short, step, seconds):
    sidecar = Sidecar(format=FORMAT, step=step, state=Content(0, ""), seconds=seconds)
    write_json(short.checkpoint_file(step).with_suffix(".json"), to_plain(sidecar))


def test_the_notice_comes_from_measured_saves_for_training_and_shards_alike(short):
    def notices(recipe):
        training = specs.of_works([Training(short.path)], recipe.cluster, DebugCluster())
        work = Evaluation(short.evals / "e", request_of(recipe, ("elbo",), 1, 1))
        shards = specs.of_works([work], recipe.cluster, DebugCluster())
        return {training.notice_s, shards.notice_s}

    assert notices(short.recipe()) == {90}
    saved(short, 10, 2.0)
    saved(short, 20, 100.0)
    assert notices(short.recipe()) == {360}
    assert notices(toy_recipe("cluster.signal_s=45")) == {45}


def test_a_task_a_shard_and_shared_tasks_if_a_submission_cannot_have_so_many():
    missing = [("a", [0, 1, 2]), ("b", [0, 1]), ("c", [])]
    each = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
    assert divided(missing, 9) == [(Piece(folder, (shard,)),) for folder, shard in each]
    assert divided(missing, 2) == [
        (Piece("a", (0, 2)), Piece("b", (1,))),
        (Piece("a", (1,)), Piece("b", (0,))),
    ]


@pytest.fixture
def evaluations(tmp_path, monkeypatch):
    """Two evaluations that compute nothing."""
    run = run_with(tmp_path / "mine", 10, 20)
    folders = [ordered(run, step).folder for step in (10, 20)]
    monkeypatch.setattr(Evaluation, "compute", lambda *_: Outcome("finished"))
    return tuple(Piece(str(folder), (0,)) for folder in folders)


def exit_code(evaluations, job=None):
    """That of the process of a task."""
    with pytest.raises(SystemExit) as end:
        ShardsWork(evaluations, gpu=False)(job or inside(), StopFlag())
    return end.value.code


@pytest.mark.parametrize(
    ("error", "code"), [(CheckpointError, 1), (UnusableSamplesError, HOPELESS)]
)
def test_a_process_ends_as_its_error_asks_to_be_treated(
    evaluations, monkeypatch, capsys, error, code
):
    compute = Mock(side_effect=[error("so it is. Fix it."), Outcome("finished")])
    monkeypatch.setattr(Evaluation, "compute", compute)
    assert exit_code(evaluations) == code
    assert (error.exit_code, compute.call_count) == (1, 2), "the others are left alone"
    assert "error: so it is. Fix it." in capsys.readouterr().err.splitlines()
    noted = [open_work(Path(piece.folder)).ledger.history().given_up for piece in evaluations]
    assert "so it is. Fix it." in noted


@pytest.mark.parametrize(
    ("cause", "wishes"),
    [("timeout", [Requeue()]), (None, [Requeue(after_limit=True)]), ("cancelled", [])],
)
def test_what_a_task_that_was_stopped_wishes_for(evaluations, monkeypatch, cause, wishes):
    monkeypatch.setattr(Evaluation, "compute", lambda *_: Outcome(code=StopCode.TERM))
    stop, job = StopFlag(), inside()
    job.cause_of = lambda code, offset: cause
    ShardsWork(evaluations, gpu=False)(job, stop)
    assert job.wishes == wishes


def test_a_task_that_cannot_say_what_it_wishes_for_ends_so(evaluations, monkeypatch, capsys):
    """The batch script decides then."""
    monkeypatch.setattr(Evaluation, "compute", lambda *_: Outcome(code=StopCode.USR2))
    assert exit_code(evaluations, inside(error=FULL_DISK)) == BLIND
    assert "job 7: its wish for a requeue cannot be written" in capsys.readouterr().err


def test_a_fault_that_passes_is_no_reason_not_to_start_again(evaluations, monkeypatch, capsys):
    error = OSError(errno.EIO, os.strerror(errno.EIO), "step_00000010.pt")
    monkeypatch.setattr(Evaluation, "compute", Mock(side_effect=error))
    assert exit_code(evaluations) == 1
    assert "step_00000010.pt" in capsys.readouterr().err
    (noted,), none = (open_work(Path(piece.folder)).ledger.events() for piece in evaluations)
    assert noted.kind == "task", "the reason is told, and nothing is given up"
    assert none == []
