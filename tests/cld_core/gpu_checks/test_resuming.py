"""A run that does not continue where it was killed is found; processes that are really killed are in test_registry."""

import signal

import pytest

from cld_core import optim
from cld_core.ema import Ema
from cld_core.gpu_checks import resuming
from cld_core.ranks import Ranks
from cld_core.stop import StopFlag
from cld_core.train import session
from cld_core.train.step import Trainer
from tests.support.tools import wait_for


class Killed(BaseException):
    """As a signal that cannot be caught: nothing of this library handles it."""


@pytest.fixture
def in_this_process(monkeypatch):
    """Attempts are calls; one that is to be killed ends in the middle of its step, after the writer."""

    def run(folder, *options):
        step = Trainer.step

        def until_death(self, number, before_update=lambda: None):
            def die():
                before_update()
                wait_for(folder.checkpoint_steps)
                raise Killed

            step(self, number, die if options and number == int(options[1]) else before_update)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "step", until_death)
            try:
                session.run(folder, Ranks(), StopFlag(), job_id="test")
            except Killed:
                return -signal.SIGKILL, ""
        return 0, ""

    monkeypatch.setattr(resuming, "_run", run)


@pytest.mark.usefixtures("in_this_process")
def test_a_run_that_continues_exactly_passes(context):
    finding = resuming.check(context)
    assert finding.verdict == "ok", finding.found
    assert finding.found == "killed in step 5 and resumed from step 3: equal to an uninterrupted run to the last bit"


def lost_moments(monkeypatch):
    monkeypatch.setattr(optim, "load", lambda optimiser, state: None)


def other_noise(monkeypatch):
    monkeypatch.setattr(Trainer, "load_state_dict", _reseeded(Trainer.load_state_dict))


def _reseeded(load):
    def loaded(self, state):
        load(self, state)
        self._key = (*self._key[:-1], 7)

    return loaded


def lost_average(monkeypatch):
    monkeypatch.setattr(Ema, "load_state_dict", lambda self, state: None)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("broken", [lost_moments, other_noise, lost_average])
def test_what_is_lost_is_found_by_far(context, monkeypatch, broken):
    broken(monkeypatch)
    finding = resuming.check(context)
    assert finding.verdict == "fail"
    assert "differs from an uninterrupted run" in finding.found
    errors = [float(part.split()[0]) for part in finding.found.split(" by ")[1:]]
    assert max(errors) > 8 * 100 * resuming._TOLERANCE, "far more than kernels that are not deterministic may"


def test_an_attempt_that_fails_is_told_with_its_last_line(context, monkeypatch):
    monkeypatch.setattr(resuming, "_run", lambda folder, *options: (1, "error: no such device"))
    finding = resuming.check(context)
    assert finding.verdict == "fail"
    assert "attempt 0 of 3 ended with 1, not 0: error: no such device" in finding.found
