"""Runs of small toys and a set of small images to train on."""

import pytest

from cld_core.ranks import Ranks
from cld_core.run.events import Remarked
from cld_core.run.work import Start, Training
from cld_core.train import loggers
from cld_core.train.step import Trainer
from tests.support.made_up import run_with

SMALL = ("network.width=16", "network.layers=3", "train.batch_size=16", "train.log_every=5")
SMALL += ("train.steps=40", "train.checkpoint_every=10")


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """No machine is so busy that a point is missing in TensorBoard."""
    monkeypatch.setattr(loggers, "CLOSE_S", 300.0)


@pytest.fixture
def make(tmp_path):
    """Makes a run of 40 steps, unless overrides say otherwise."""

    def make(*overrides, name="mine"):
        return run_with(
            tmp_path / name,
            overrides=(
                *SMALL,
                *overrides,
            ),
        )

    return make


def at_step(monkeypatch, step, act):
    """Let ``act`` be called when a trainer begins to compute optimiser step ``step``."""
    original = Trainer.step

    def stepping(self, number, **more):
        if number == step:
            act()
        original(self, number, **more)

    monkeypatch.setattr(Trainer, "step", stepping)


def remarks(run):
    """What the ledger remarks: on what, how often, and why."""
    events = [event for event in run.ledger.events() if isinstance(event, Remarked)]
    return [(event.what, event.count, event.reason) for event in events]


def attempt(run, stop=None, job_id="test", **start):
    """Train, and return the cause and the last step of the newest attempt."""
    Training(run.path).compute(Ranks(), stop, start=Start(job_id=job_id, **start))
    last = run.ledger.history().last
    return last.cause, last.last_step
