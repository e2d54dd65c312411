"""What is reported while training: nothing of it ends a training, whatever the disk does."""

import errno
import os

import pytest

from cld_core.config import load
from cld_core.run import RunFolder
from cld_core.run.events import Remarked, Started
from cld_core.run.history import History
from cld_core.train import monitoring
from cld_core.train.loggers import About
from cld_core.train.monitoring import Monitor
from tests.support.paths import RECIPES


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "mine", load(RECIPES / "toy.yaml", ["train.steps=100"]), {"created": 1.0})


@pytest.fixture
def monitor(run):
    monitor = Monitor(About(folder=run, recipe=run.recipe(), attempt=0, first_step=0), may_write=lambda: True)
    yield monitor
    monitor.close()


def dropped(run):
    return [(event.what, event.count, event.reason) for event in run.ledger.events() if isinstance(event, Remarked)]


def test_progress_that_cannot_be_written_is_dropped_and_noted_later(run, monitor, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(monitoring, "write_json", full)
        monitor.write(1)
        monitor.write(2)
    assert run.progress() == {}
    monitor.write(3)
    assert run.progress()["step"] == 3
    assert dropped(run) == [("progress.json", 2, "No space left on device")]
    said = capsys.readouterr().out
    assert said.count("progress.json cannot be written (No space left on device); going on without") == 1
    assert "step 2/100" in said


def test_the_smoothed_loss_is_a_mean_that_forgets(run, monitor):
    for step in range(1, 11):
        monitor.report(step, {"loss": float(step)})
    monitor.write(10)
    assert run.progress()["smoothed_loss"] == pytest.approx(5.5), "the first ten count the same"
    monitor.report(11, {"loss": 15.5})
    monitor.report(12, {"loss": float("nan")})
    monitor.report(13, {})
    monitor.write(13)
    assert run.progress()["smoothed_loss"] == pytest.approx(6.5), "then the newest counts a tenth"


def test_a_phase_is_written_at_once_and_changes_no_pause(run, monitor):
    monitor.write(0)
    assert run.progress()["phase"] == "starting"
    monitor.started(1, 2.0)
    assert run.progress()["phase"] == "training"
    monitor.write(5)
    pause = run.progress()["every_s"]
    monitor.enter("drawing samples", 6)
    progress = run.progress()
    assert (progress["phase"], progress["step"], progress["every_s"]) == ("drawing samples", 6, pause)
    monitor.write(9, "saving")
    assert run.progress()["phase"] == "saving"


def test_the_warning_is_part_of_the_progress_and_of_the_attempt(run, monitor, capsys):
    monitor.warn("own step time: ...", "rank 2 on n3 is slow")
    monitor.warn("own step time: ...", "rank 2 on n3 is slow")
    monitor.write(5)
    assert capsys.readouterr().out.count("warning: rank 2 on n3 is slow") == 1
    history = History.of([Started(attempt=0, job_id="7", step=0)]).with_progress(run.progress())
    assert history.attempts[0].warning == "rank 2 on n3 is slow"
    monitor.warn("own step time: ...", None)
    monitor.write(6)
    assert "warning" not in run.progress()
