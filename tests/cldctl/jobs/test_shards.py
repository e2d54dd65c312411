"""How sharded work is divided over tasks, and what a task does with its pieces."""

import errno
import os
from pathlib import Path

import pytest

from cld_core.errors import CheckpointError, SolverError, UnusableSamplesError
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.request import EvalRequest
from cld_core.run.events import TaskFailed
from cld_core.run.ledger import Ledger
from cld_core.shards import open_work
from cld_core.stop import StopCode, StopFlag
from cldctl.clusters.records import SchedulerAway
from cldctl.jobs import process
from cldctl.jobs.process import HOPELESS
from cldctl.jobs.shards import Piece, ShardsWork, divided
from tests.support.clock import Clock
from tests.support.made_up import run_with
from tests.support.scripted import inside


def test_a_task_a_shard_and_shared_tasks_if_a_submission_cannot_have_so_many():
    missing = [("a", [0, 1, 2]), ("b", [0, 1]), ("c", [])]
    assert divided(missing, 9) == [
        (Piece("a", (0,)),),
        (Piece("a", (1,)),),
        (Piece("a", (2,)),),
        (Piece("b", (0,)),),
        (Piece("b", (1,)),),
    ]
    assert divided(missing, 2) == [(Piece("a", (0, 2)), Piece("b", (1,))), (Piece("a", (1,)), Piece("b", (0,)))]


@pytest.fixture
def evaluations(tmp_path, monkeypatch):
    """Two evaluations that compute nothing."""
    run = run_with(tmp_path / "mine", 10, 20)
    folders = [EvalRequest.of(run.recipe(), ("elbo",), step, 1).save(run) for step in (10, 20)]
    monkeypatch.setattr(Evaluation, "compute", lambda *_: True)
    return tuple(Piece(str(folder), (0,)) for folder in folders)


@pytest.mark.parametrize(
    ("error", "code"), [(CheckpointError, 1), (UnusableSamplesError, HOPELESS), (SolverError, HOPELESS)]
)
def test_a_process_ends_as_its_error_asks_to_be_treated(evaluations, monkeypatch, capsys, error, code):
    def failing(*arguments):
        raise error("so it is. Fix it.")

    monkeypatch.setattr(Evaluation, "compute", failing)
    with pytest.raises(SystemExit) as end:
        ShardsWork(evaluations, gpu=False)(inside())
    assert (end.value.code, error.exit_code) == (code, 1)
    assert "error: so it is. Fix it." in capsys.readouterr().err.splitlines()
    noted = [open_work(Path(piece.folder)).ledger.history().given_up for piece in evaluations]
    assert "so it is. Fix it." in noted


@pytest.mark.parametrize("is_away", [False, True])
def test_a_task_that_is_preempted_requeues_itself_like_a_training(evaluations, monkeypatch, capsys, is_away):
    job = inside()
    job.refusal = SchedulerAway("nobody answers") if is_away else None

    def preempted(work, job, stop):
        stop.code = StopCode.USR2
        return False

    monkeypatch.setattr(ShardsWork, "_compute", preempted)
    monkeypatch.setattr(StopFlag, "listen", lambda self, interrupt=False: self)
    monkeypatch.setattr(process, "time", Clock())
    if is_away:
        with pytest.raises(SystemExit) as end:
            ShardsWork(evaluations, gpu=False)(job)
        assert end.value.code == process.NOT_REQUEUED
        assert "could not requeue job 7: nobody answers" in capsys.readouterr().out
        noted = [open_work(Path(piece.folder)).ledger.events()[-1] for piece in evaluations]
        assert [event.reason for event in noted] == ["nobody answers"] * len(noted)
    else:
        ShardsWork(evaluations, gpu=False)(job)
        assert job.delay_s == 0.0


def test_a_fault_that_passes_is_no_reason_not_to_start_again(evaluations, monkeypatch, capsys):
    def failing(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "step_00000010.pt")

    monkeypatch.setattr(Evaluation, "compute", failing)
    with pytest.raises(SystemExit) as end:
        ShardsWork(evaluations, gpu=False)(inside())
    assert end.value.code == 1
    assert "step_00000010.pt" in capsys.readouterr().err
    (noted,), none = (open_work(Path(piece.folder)).ledger.events() for piece in evaluations)
    assert isinstance(noted, TaskFailed), "the reason is told, and nothing is given up"
    assert none == []


def test_a_piece_that_fails_leaves_the_others_alone(monkeypatch, tmp_path):
    computed = []

    class Made:
        def __init__(self, folder):
            self.name, self.ledger = folder.name, Ledger(tmp_path / folder.name)

        def compute(self, ranks, should_stop, only):
            computed.append((self.name, only))
            if self.name == "b":
                raise CheckpointError("b is damaged. Fix it.")
            return True

    monkeypatch.setattr("cldctl.jobs.shards.open_work", Made)
    pieces = (Piece("a", (0,)), Piece("b", (0,)), Piece("c", (1, 2)))
    with pytest.raises(CheckpointError, match="b is damaged"):
        ShardsWork(pieces, gpu=False)._compute(inside(), StopFlag())
    assert computed == [("a", (0,)), ("b", (0,)), ("c", (1, 2))]
