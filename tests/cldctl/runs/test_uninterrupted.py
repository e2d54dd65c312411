"""Ctrl-C, and a refusal, between the two submissions of `submit --eval`."""

import os
import signal

import pytest

from cld_core.config import load
from cld_core.evaluate.evaluation import evaluations_of
from cld_core.run import RunFolder
from cldctl.clusters.records import SchedulerRefused
from cldctl.runs import home
from cldctl.runs.options import SubmitOptions
from cldctl.runs.submit import submit
from tests.support.paths import RECIPES
from tests.support.scripted import alone
from tests.support.tools import invoke

TOY = RECIPES / "toy.yaml"


def interrupted(at: int, times: int = 1, error: Exception | None = None):
    """Accepts jobs; before it answers for number ``at``, Ctrl-C is typed ``times``."""

    def before(number):
        if number == at:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
            if error is not None:
                raise error

    return alone(before=before)


@pytest.fixture(autouse=True)
def _as_in_a_terminal():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def submitted(path, cluster):
    recipe = load(TOY, ["train.steps=20", "eval.samples=32"])
    return submit(SubmitOptions(path=path, recipe=recipe, file=TOY, metrics=("elbo",)), cluster)


def jobs(run: RunFolder) -> tuple[list[str], list[str]]:
    (work,) = evaluations_of(run)
    ledgers = run.ledger, work.ledger
    training, evaluation = ([event.job.job_id for event in it.history().submitted] for it in ledgers)
    return training, evaluation


@pytest.mark.parametrize("at", [1, 2])
def test_both_jobs_are_submitted_all_the_same(tmp_path, at, capsys):
    with pytest.raises(KeyboardInterrupt):
        submitted(tmp_path / "mine", interrupted(at))
    assert jobs(RunFolder(tmp_path / "mine")) == (["1_0"], ["2_0"])
    assert "finishing the submission; press Ctrl-C again to abort" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("times", "said"), [(1, []), (2, ["its evaluation elbo-00000020-", "was not submitted", "cldctl eval mine --elbo"])]
)
def test_what_goes_on_and_what_does_not_is_said(tmp_path, monkeypatch, times, said):
    cluster = interrupted(2, times)
    monkeypatch.setattr(home, "chosen", lambda *arguments: cluster)
    words = ("submit", "toy", "train.steps=20", "eval.samples=32", "--name", "mine", "--eval", "elbo")
    done = invoke(*words, runs=tmp_path / "runs", code=130)
    assert "interrupted; mine is submitted as job 1_0 and goes on (`cldctl cancel mine" in done.stderr
    assert all(text in done.stderr for text in said), done.stderr
    assert ("was not submitted" in done.stderr) == bool(said)
    assert jobs(RunFolder(tmp_path / "runs" / "mine")) == (["1_0"], ["2_0"] if times == 1 else [])


def test_a_refused_evaluation_does_not_hide_that_the_training_goes_on(tmp_path):
    refusal = r"mine trains as job 1_0, but its evaluation elbo-\S+ was not submitted: .*`cldctl eval mine --elbo"
    with pytest.raises(SchedulerRefused, match=f"{refusal}.*: too many"):
        submitted(tmp_path / "mine", interrupted(2, 0, SchedulerRefused("too many")))
    assert jobs(RunFolder(tmp_path / "mine")) == (["1_0"], [])
