"""A checkpoint of two moments is found, and one that training waits for; the clock is made up."""

from dataclasses import replace

import torch

from cld_core.checkpoint.write import CheckpointWriter
from cld_core.gpu_checks import saving
from cld_core.gpu_checks.states import copied


class Clock:
    """Time passes only where a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def slow(self, function, seconds):
        def slower(*arguments, **options):
            self.now += seconds
            return function(*arguments, **options)

        return slower


def timed(context, monkeypatch, *, background_s, plain_s):
    clock = Clock()
    monkeypatch.setattr(CheckpointWriter, "save", clock.slow(CheckpointWriter.save, background_s))
    monkeypatch.setattr(saving, "save_plainly", clock.slow(saving.save_plainly, plain_s))
    return saving.check(replace(context, clock=clock))


def test_a_save_in_the_background_is_fast_enough(context, monkeypatch):
    finding = timed(context, monkeypatch, background_s=0.1, plain_s=1.0)
    assert finding.verdict == "ok"
    assert finding.found == "training stands still for 100 ms, for 1000 ms with a plain torch.save"


def test_a_save_that_training_waits_for_is_found(context, monkeypatch):
    finding = timed(context, monkeypatch, background_s=0.9, plain_s=1.0)
    assert finding.verdict == "fail"
    assert "900 ms" in finding.found


def test_a_disk_in_memory_says_nothing_about_the_time(context, monkeypatch):
    assert timed(context, monkeypatch, background_s=0.09, plain_s=0.1).verdict == "ok"


def test_a_checkpoint_of_a_later_moment_is_found(context, monkeypatch):
    """As if the state was copied after training had gone on."""
    save, wait = CheckpointWriter.save, CheckpointWriter.wait
    late = []

    def saved_late(self, step, state, **options):
        late.append((step, state))

    def written(self):
        if late:
            step, state = late.pop()
            late.clear()
            save(self, step, copied(state))
        wait(self)

    monkeypatch.setattr(CheckpointWriter, "save", saved_late)
    monkeypatch.setattr(CheckpointWriter, "wait", written)
    finding = saving.check(context)
    assert finding.verdict == "fail"
    assert "weights and moments and average" in finding.found
    assert torch.is_grad_enabled()
