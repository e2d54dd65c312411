"""An attempt that could not note its end: what the next one still knows of it."""

import time

import pytest

from cld_core.config import load
from cld_core.files import write_json
from cld_core.ranks import Ranks
from cld_core.run import RunFolder, events
from cld_core.stop import StopFlag
from cld_core.train import session
from cld_core.train.monitoring import Monitor
from tests.support.paths import RECIPES

SMALL = ["network.width=16", "network.layers=3", "train.batch_size=16", "train.steps=20", "train.checkpoint_every=10"]


@pytest.mark.parametrize(("reported", "reached"), [(3, 10), (17, 17)])
def test_its_last_step_is_at_least_that_of_its_newest_checkpoint(tmp_path, reported, reached):
    """Reports are written once a second, checkpoints when they are due."""
    recipe = load(RECIPES / "toy.yaml", [*SMALL, "train.steps=10"])
    run = RunFolder.create(tmp_path / "mine", recipe, {"created": 1.0})
    session.run(run, Ranks(), StopFlag(), job_id="1")
    lines = run.ledger.path.read_text().splitlines(keepends=True)
    assert '"ended"' in lines[-1]
    run.ledger.path.write_text("".join(lines[:-1]))
    write_json(run.progress_file, {"attempt": 0, "step": reported, "steps": 20, "time": 1234.5})
    run.ledger.append(events.Requested(steps=20, overrides=("train.steps=20",)))
    session.run(run, Ranks(), StopFlag(), job_id="2")
    silent, last = run.ledger.history().attempts
    assert (silent.cause, silent.last_step, silent.ended) == ("killed", reached, 1234.5)
    assert (last.first_step, last.last_step) == (10, 20)


def test_a_crash_after_a_checkpoint_reached_at_least_that_one(tmp_path, monkeypatch):
    recipe = load(RECIPES / "toy.yaml", [*SMALL, "train.log_every=7"])
    run = RunFolder.create(tmp_path / "mine", recipe, {"created": 1.0})
    write = Monitor.write

    def fails(self, step):
        if step >= 14:
            # It is written in the background.
            while run.checkpoint_steps() != [10]:
                time.sleep(0.01)
            raise OSError("the disk is gone")
        write(self, step)

    monkeypatch.setattr(Monitor, "write", fails)
    monkeypatch.setattr("cld_core.train.monitoring.PROGRESS_EVERY_S", -1.0)
    with pytest.raises(OSError, match="the disk is gone"):
        session.run(run, Ranks(), StopFlag(), job_id="1")
    (attempt,) = run.ledger.history().attempts
    assert (attempt.cause, run.progress()["step"], run.checkpoint_steps()) == ("crashed", 7, [10])
    assert attempt.last_step == 10
