"""What a job does before and after its work, with a launcher that is made up; how sharded work is divided."""

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from cld_core.codec import to_plain
from cld_core.config import load
from cld_core.errors import CheckpointError, SolverError, UnusableSamplesError, UsageError
from cld_core.evaluate.request import request_of
from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.run.checkpoints import FORMAT, Content, Sidecar
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import Ended, GivenUp, JobRef, Wished, Started, Submitted, TurnedAway
from cld_core.run.ledger import Ledger
from cld_core.run.work import open_work
from cld_core.stop import StopCode, StopFlag
from cldctl.clusters.base import After, SchedulerAway, SchedulerRefused
from cldctl.clusters.debug import DebugCluster
from cldctl.jobs import process, specs, successor
from cldctl.jobs.process import HOPELESS
from cldctl.jobs.shards import Piece, ShardsWork, divided
from cldctl.jobs.train import TrainWork, explain_previous, go_on
from tests.support.clock import Clock
from tests.support.made_up import run_with
from tests.support.paths import TOY
from tests.support.scripted import REF, inside


@pytest.fixture
def run(tmp_path):
    run = RunFolder.create(tmp_path / "mine", load(TOY), {"created": 1.0})
    run.ledger.append(Started(attempt=0, job_id="7", step=0))
    return run


@pytest.fixture
def job():
    return inside()


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    """Waiting for the scheduler takes no time."""
    monkeypatch.setattr(process, "time", Clock())


@pytest.mark.parametrize(
    ("cause", "asked"), [(None, True), ("crashed", True), ("terminated", True), ("preempted", False)]
)
def test_an_end_without_an_explanation_is_explained(run, job, cause, asked):
    if cause is not None:
        run.ledger.append(Ended(attempt=0, cause=cause, step=3))
    job.cause = "node_failure"
    explain_previous(run, job)
    assert (run.ledger.history().last.cause == "node_failure") == asked


def test_a_time_limit_before_the_first_step_would_come_again(run, job):
    run.ledger.append(Ended(attempt=0, cause="timeout", step=0))
    assert go_on(run, job, "timeout")
    assert isinstance(run.ledger.events()[-1], GivenUp)
    run.ledger.append(Started(attempt=1, job_id="7", step=0))
    run.ledger.append(Ended(attempt=1, cause="timeout", step=30))
    assert go_on(run, job, "timeout", delay_s=5.0)
    assert job.delay_s == 5.0
    assert isinstance(run.ledger.events()[-1], Wished)


@pytest.mark.parametrize("error", [SchedulerRefused("no"), SchedulerAway("nobody answers")])
def test_a_requeue_that_fails_is_noted(run, job, error, capsys):
    run.ledger.append(Ended(attempt=0, cause="preempted", step=3))
    job.refusal = error
    assert not go_on(run, job, "preempted")
    history = run.ledger.history()
    assert (history.not_requeued, history.requeued, history.given_up) == (str(error), None, None)
    assert "could not requeue job 7" in capsys.readouterr().out
    run.ledger.append(Started(attempt=1, job_id="7", step=3, restart=1))
    assert run.ledger.history().not_requeued is None, "it came back after all"


def test_a_scheduler_that_is_away_is_asked_until_it_answers(run, job):
    run.ledger.append(Ended(attempt=0, cause="preempted", step=3))
    job.refusal, job.refusals = SchedulerAway("nobody answers"), 40
    assert go_on(run, job, "preempted")
    assert job.asked == 41
    assert isinstance(run.ledger.events()[-1], Wished)


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_job_that_is_told_to_end_requeues_itself_unless_it_was_cancelled(run, job, cancelled):
    run.ledger.append(Ended(attempt=0, cause="preempted", step=3))
    job.cancelled = cancelled
    assert go_on(run, job, "preempted", told_to_end=lambda: True) == (not cancelled)
    assert job.asked == (not cancelled)


def test_a_withdrawn_job_leaves_at_once(run, capsys):
    """The scheduler did not take the cancellation, and started it later."""
    run.ledger.append(Submitted(job=REF, successor_of="6"))
    run.ledger.append(TurnedAway(job_id="7", reason="withdrawn", why="withdrawn"))
    before = run.ledger.events()
    TrainWork(str(run.path))(inside(size=2))
    assert "job 7 was withdrawn" in capsys.readouterr().out
    assert run.ledger.events() == before


def test_a_job_of_another_size_than_the_recipes_does_not_train(run, capsys):
    """Two ranks that do not know of each other would train the run twice."""
    with pytest.raises(SystemExit) as exit_:
        TrainWork(str(run.path))(inside(size=2))
    assert exit_.value.code == UsageError.exit_code
    said = capsys.readouterr().err
    assert "mine: the job has 2 process(es), and the recipe asks for 1. Set cluster.nodes" in said
    assert len([line for line in said.splitlines() if not line.startswith("--- start 0 of job 7: rank 0 ")]) == 1


@pytest.fixture
def short(tmp_path):
    short = run_with(tmp_path / "mine", overrides=("train.steps=20",))
    short.ledger.append(Submitted(job=REF))
    return short


def test_one_successor_waits_for_a_job_to_fail_and_is_withdrawn_with_the_run(short, job):
    work = TrainWork(str(short.path))
    for _ in range(2):
        successor.submit(short, job, work)
    ((spec, tasks),) = job.cluster.submissions
    assert spec.after == After((REF,), "failed")
    assert tasks[0] == work
    (ref,) = short.ledger.history().successors_of("7")
    assert ref.job_id == "8"
    assert not successor.is_withdrawn(short, ref)
    successor.withdraw(short, job)
    assert job.cluster.calls == [("cancel", ["8"])]
    assert isinstance(short.ledger.events()[-1], TurnedAway)
    assert successor.is_withdrawn(short, ref)


def test_training_goes_on_without_a_successor_that_was_refused(short, capsys):
    successor.submit(short, inside(SchedulerRefused("too many jobs.")), TrainWork(str(short.path)))
    assert "mine has no successor: too many jobs." in capsys.readouterr().out
    assert short.ledger.history().successors_of("7") == []


def test_evaluations_wait_for_the_successor_too(short, job, monkeypatch):
    work = Evaluation(request_of(short.recipe(), ("elbo",), 20).save(short))
    work.ledger.append(Submitted(job=JobRef(cluster="scripted", job_id="9"), shards=(0,)))
    job.cluster.phases["9"] = "pending"
    redirected = []
    monkeypatch.setattr(job.cluster, "redirect", lambda jobs, after: redirected.append((jobs, after)))
    successor.submit(short, job, TrainWork(str(short.path)))
    (ref,) = short.ledger.history().successors_of("7")
    (((waiting,), after),) = redirected
    assert (waiting.job_id, after) == ("9", After((ref,)))


def saved(short, step, seconds):
    sidecar = Sidecar(format=FORMAT, step=step, state=Content(0, ""), seconds=seconds)
    write_json(short.checkpoint_file(step).with_suffix(".json"), to_plain(sidecar))


def test_the_notice_comes_from_measured_saves_for_training_and_shards_alike(short):
    def notices(recipe):
        training = specs.training([short], recipe, DebugCluster())
        shards = specs.sharded([short.evals / "e"], recipe.cluster, DebugCluster(), run=short)
        return {training.notice_s, shards.notice_s}

    assert notices(short.recipe()) == {90}
    saved(short, 10, 2.0)
    saved(short, 20, 100.0)
    assert notices(short.recipe()) == {360}
    assert notices(load(TOY, ["cluster.signal_s=45"])) == {45}
    statistics = specs.sharded([short.evals / "e"], short.recipe().cluster, DebugCluster())
    assert statistics.notice_s == 90, "no save was measured"
    assert specs.measured_saves([short]) == (100.0, 360)


def test_a_task_a_shard_and_shared_tasks_if_a_submission_cannot_have_so_many():
    missing = [("a", [0, 1, 2]), ("b", [0, 1]), ("c", [])]
    each = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
    assert divided(missing, 9) == [(Piece(folder, (shard,)),) for folder, shard in each]
    assert divided(missing, 2) == [(Piece("a", (0, 2)), Piece("b", (1,))), (Piece("a", (1,)), Piece("b", (0,)))]


@pytest.fixture
def evaluations(tmp_path, monkeypatch):
    """Two evaluations that compute nothing."""
    run = run_with(tmp_path / "mine", 10, 20)
    folders = [request_of(run.recipe(), ("elbo",), step, 1).save(run) for step in (10, 20)]
    monkeypatch.setattr(Evaluation, "compute", lambda *_: True)
    return tuple(Piece(str(folder), (0,)) for folder in folders)


@pytest.mark.parametrize(
    ("error", "code"), [(CheckpointError, 1), (UnusableSamplesError, HOPELESS), (SolverError, HOPELESS)]
)
def test_a_process_ends_as_its_error_asks_to_be_treated(evaluations, monkeypatch, capsys, error, code):
    monkeypatch.setattr(Evaluation, "compute", Mock(side_effect=error("so it is. Fix it.")))
    with pytest.raises(SystemExit) as end:
        ShardsWork(evaluations, gpu=False)(inside())
    assert (end.value.code, error.exit_code) == (code, 1)
    assert "error: so it is. Fix it." in capsys.readouterr().err.splitlines()
    noted = [open_work(Path(piece.folder)).ledger.history().given_up for piece in evaluations]
    assert "so it is. Fix it." in noted


def test_a_task_that_is_preempted_and_cannot_requeue_itself_says_so(evaluations, monkeypatch, capsys):
    def preempted(work, job, stop):
        stop.code = StopCode.USR2
        return False

    monkeypatch.setattr(ShardsWork, "_compute", preempted)
    monkeypatch.setattr(StopFlag, "listen", lambda self, interrupt=False: self)
    job = inside(refusal=SchedulerAway("nobody answers"))
    with pytest.raises(SystemExit) as end:
        ShardsWork(evaluations, gpu=False)(job)
    assert (end.value.code, job.asked > 1) == (process.NOT_REQUEUED, True)
    assert "could not requeue job 7: nobody answers" in capsys.readouterr().out
    noted = [open_work(Path(piece.folder)).ledger.events()[-1] for piece in evaluations]
    assert [event.reason for event in noted] == ["nobody answers"] * len(noted)


def test_a_fault_that_passes_is_no_reason_not_to_start_again(evaluations, monkeypatch, capsys):
    error = OSError(errno.EIO, os.strerror(errno.EIO), "step_00000010.pt")
    monkeypatch.setattr(Evaluation, "compute", Mock(side_effect=error))
    with pytest.raises(SystemExit) as end:
        ShardsWork(evaluations, gpu=False)(inside())
    assert end.value.code == 1
    assert "step_00000010.pt" in capsys.readouterr().err
    (noted,), none = (open_work(Path(piece.folder)).ledger.events() for piece in evaluations)
    assert noted.kind == "task", "the reason is told, and nothing is given up"
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
