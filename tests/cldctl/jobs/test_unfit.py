"""Unfit machines cost no retry, and a time limit during the setup costs one."""

from dataclasses import replace

import pytest

from cld_core.errors import UnfitError
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.request import EvalRequest
from cld_core.run.events import DiedEarly, GivenUp, NotBegun, Requeued, Submitted, TurnedAway, Unfit
from cld_core.stop import StopFlag
from cldctl.jobs import aftermath, hooks, process, unfit
from cldctl.jobs.process import UNFIT
from cldctl.jobs.train import TrainWork
from tests.support.made_up import run_with
from tests.support.scripted import LAUNCHER, REF, Scripted, inside


@pytest.fixture
def run(tmp_path):
    run = run_with(tmp_path / "mine", overrides=("train.max_retries=1",))
    run.ledger.append(Submitted(job=REF))
    return run


def found(restart: int, host: str = "n1") -> Unfit:
    return Unfit(job_id="7", restart=restart, rank=0, host=host, check="gpu", reason=f"{host}: gpu: it is gone")


def test_a_job_begins_again_elsewhere_and_no_retry_is_spent(run, capsys):
    run.ledger.append(found(0))
    job = inside()
    aftermath.after_training(run, job, UNFIT)
    requeued = run.ledger.events()[-1]
    assert isinstance(requeued, Requeued)
    assert (requeued.cause, requeued.exclude, job.exclude) == ("unfit", ("n1",), ("n1",))
    assert run.ledger.history().crashes_in_a_row == 0
    said = capsys.readouterr().err
    assert "mine: unfit: n1: gpu: it is gone; again in 10 s" in said
    assert "node n1 is avoided from now on: unfit (gpu)" in said


def test_unfit_machines_are_not_looked_for_for_ever(run):
    for restart in range(unfit.STARTS):
        run.ledger.append(found(restart))
        aftermath.after_training(run, inside(restart=restart), UNFIT)
        assert isinstance(run.ledger.events()[-1], Requeued)
    run.ledger.append(found(unfit.STARTS))
    run.ledger.append(Submitted(job=replace(REF, job_id="8"), successor_of="7"))
    job = inside(restart=unfit.STARTS)
    aftermath.after_training(run, job, UNFIT)
    event, withdrawn = run.ledger.events()[-2:]
    assert isinstance(event, GivenUp)
    assert "11 starts in a row found an unfit machine" in event.reason
    assert isinstance(withdrawn, TurnedAway)
    assert job.cluster.calls == [("cancel", ["8"])], "it would find unfit machines, too, and submit the next one"


def test_a_successor_is_submitted_when_the_machine_is_found_fit(tmp_path, monkeypatch):
    run, job = run_with(tmp_path / "next", overrides=("cluster.successor=true",)), inside()

    def joined(*place, **more):
        assert job.cluster.submissions == []
        raise UnfitError("n1: gpu: it is gone", "gpu", {0: "n1"})

    monkeypatch.setattr("cld_core.train.health.joined", joined)
    with pytest.raises(UnfitError):
        TrainWork(str(run.path))._train(run, job, StopFlag())
    assert job.cluster.submissions == []


def test_the_exit_code_is_enough(run):
    aftermath.after_training(run, inside(said=f"srun: error: n2: task 0: Exited with exit code {UNFIT}\n"), UNFIT)
    assert run.ledger.history().avoided == {"7": ("n2",)}


class Left(BaseException):
    """`os._exit` was called."""


def test_without_an_aftermath_the_hook_is_told_before_the_process_leaves_at_once(run, monkeypatch):
    def joined(*place, **more):
        raise UnfitError("n1: gpu: it is gone", "gpu", {0: "n1"})

    def leave(code):
        happened.append(code)
        raise Left

    happened = []
    monkeypatch.setattr("cld_core.train.health.joined", joined)
    monkeypatch.setattr(process, "_leave_at_once", leave)
    monkeypatch.setattr(hooks, "fire", lambda run: happened.append(type(run.ledger.events()[-1])))
    with pytest.raises(Left):
        TrainWork(str(run.path))(inside())
    assert happened[:2] == [Unfit, UNFIT]


@pytest.fixture
def in_setup(monkeypatch):
    """The job whose setup ends; an earlier start, which the first 1000 bytes of its log are about, met its limit."""

    def make(cause="timeout", cancelled=False):
        job = inside(cancelled=cancelled)
        job.cause_of = lambda code, offset: "timeout" if offset < 1000 else cause
        monkeypatch.setattr(Scripted, "current", lambda self: job)
        return job

    return make


def end_of_setup(run, kind="training", folder=None):
    arguments = [kind, str(folder or run.path), str(run.logs), LAUNCHER, "143", "setup", "1000"]
    assert aftermath.main(arguments) == 143


def test_a_time_limit_during_the_setup_costs_a_retry(run, in_setup):
    job = in_setup()
    end_of_setup(run)
    died, requeued = run.ledger.events()[-2:]
    assert isinstance(died, DiedEarly)
    assert isinstance(requeued, Requeued)
    assert (requeued.cause, job.delay_s) == ("timeout", 10.0)
    end_of_setup(run)
    event = run.ledger.events()[-1]
    assert isinstance(event, NotBegun)
    assert "the time limit came during cluster.setup, 2 times" in event.reason
    assert "cluster.time_min" in event.reason


@pytest.mark.parametrize("cause", ["preempted", "cancelled", None])
def test_another_end_of_the_setup_is_left_to_slurm(run, in_setup, cause):
    in_setup(cause)
    before = run.ledger.events()
    end_of_setup(run)
    work = Evaluation(EvalRequest.of(run.recipe(), ("elbo",), 20).save(run))
    end_of_setup(run, "shards", work.folder)
    assert run.ledger.events() == before
    assert work.ledger.events() == []


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_task_whose_setup_met_the_limit_begins_again_unless_it_was_cancelled(run, in_setup, cancelled):
    job = in_setup(cancelled=cancelled)
    work = Evaluation(EvalRequest.of(run.recipe(), ("elbo",), 20).save(run))
    end_of_setup(run, "shards", work.folder)
    assert job.asked == (not cancelled)
