"""What a bad gradient does: it changes nothing, and training rolls back a bounded number of times."""

import contextlib
import math

import pytest
import torch

from cld_core import optim
from cld_core.checkpoint import load
from cld_core.errors import NonFiniteError
from cld_core.ranks import Ranks
from cld_core.run import events
from cld_core.train import session
from cld_core.train.loggers import Monitor
from cld_core.train.step import GradientFilter, Trainer
from tests.cld_core.train.conftest import attempt
from tests.support.images import clone, run_folder, tiny_recipe
from tests.support.spawned import spawned
from tests.support.tools import same, stepped


def poisoned(monkeypatch, when):
    """Let the data of the steps for which ``when(key, step)`` holds be infinite; returns the steps that were tried."""
    original, tried = Trainer._backward, []

    def backward(self, step):
        tried.append((self._key[1], step))
        batch = self.source.batch
        if when(self._key[1], step):
            self.source.batch = lambda *arguments: batch(*arguments) * math.inf
        try:
            return original(self, step)
        finally:
            self.source.batch = batch

    monkeypatch.setattr(Trainer, "_backward", backward)
    return tried


def rollbacks(run):
    return [event for event in run.ledger.events() if isinstance(event, events.RolledBack)]


def test_a_bad_gradient_rolls_back_to_the_last_good_checkpoint_with_fresh_noise(data, tmp_path, monkeypatch):
    tried = poisoned(monkeypatch, lambda restart, step: restart == 0 and step == 6)
    run = run_folder(tmp_path, data)
    assert attempt(run) == session.SessionResult("finished", 12)
    assert [step for _, step in tried] == [*range(7), *range(4, 12)]
    assert {restart for restart, _ in tried[7:]} == {1_000_000}
    assert [(event.attempt, event.to_step) for event in rollbacks(run)] == [(0, 4)]
    assert "step 6: not finite or exploding: the gradient's norm is nan" in rollbacks(run)[0].reason
    assert [entry.cause for entry in run.ledger.history().attempts] == ["finished"]
    for step in (8, 12):
        state = load(run, step)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in state["model"].values())


def test_rollbacks_are_bounded_and_a_new_attempt_does_not_count_from_zero(data, tmp_path, monkeypatch):
    tried = poisoned(monkeypatch, lambda _, step: step == 6)
    run = run_folder(tmp_path, data, "train.max_rollbacks=2")
    for number in (1, 2):
        with pytest.raises(NonFiniteError, match=r"2 rollbacks to step 4, .* did not help.*resume --from"):
            attempt(run)
        assert run.ledger.history().rollbacks() == 2
        assert [entry.cause for entry in run.ledger.history().attempts] == ["nonfinite"] * number
    assert [step for _, step in tried] == [*range(7), 4, 5, 6, 4, 5, 6, 4, 5, 6]
    assert len({restart for restart, _ in tried}) == 4
    assert run.checkpoint_steps() == [4]


def test_an_overflow_under_the_scaler_is_skipped_and_harmless(data, monkeypatch):
    poisoned(monkeypatch, lambda _, step: step == 5)
    made = stepped(Trainer(tiny_recipe(data, "train.precision=fp16"), Ranks()), 5)
    made.take_scalars()
    scale, before = made.scaler.get_scale(), clone(made.net.state_dict())
    made.step(5)
    assert same(before, made.net.state_dict())
    assert made.scaler.get_scale() == scale / 2
    assert made.take_scalars()["skipped_steps"] == 1
    with pytest.raises(NonFiniteError, match="the loss is inf"):
        made.check(1, math.inf)
    made.scaler.update(0.5)
    with pytest.raises(NonFiniteError, match="overflows at any scale"):
        made.check(1)


def test_an_explosion_is_known_from_the_running_mean():
    gradients = GradientFilter(10.0, torch.device("cpu"), scaled=False)
    for _ in range(100):
        assert not gradients.check(torch.tensor(2.0))
    assert not gradients.check(torch.tensor(19.0))
    assert gradients.check(torch.tensor(30.0))
    assert gradients.check(torch.tensor(math.nan))
    assert gradients.check(torch.tensor(math.inf))
    assert gradients.bad() == 3
    again = GradientFilter(10.0, torch.device("cpu"), scaled=False)
    assert not again.check(torch.tensor(30.0)), "nothing to compare with yet"
    again.load_state_dict(gradients.state_dict())
    assert again.check(torch.tensor(30.0))
    assert not GradientFilter(None, torch.device("cpu"), scaled=False).check(torch.tensor(1e30))


def overflow(module, inputs, out):
    """A forward hook after which the output of a network in half precision is infinite."""
    return 2.0 * (6e4 * out.half() + 6e4)


def deferred(*arguments):
    """A trainer that leaves bad steps to the device, as on a GPU."""
    made = Trainer(*arguments)
    assert not made.deferred, "the CPU need not"
    assert optim.skips_on_device(made.optimiser)
    made.deferred = True
    return made


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_deferred_step_changes_nothing_and_is_reported_later(data, precision):
    made = stepped(deferred(tiny_recipe(data, f"train.precision={precision}", "optim.lr=0.01"), Ranks()), 6)
    made.take_scalars()
    names = ("model", "ema", "optimiser")
    before = clone({name: made.state_dict()[name] for name in names})
    with made.net.register_forward_hook(lambda module, inputs, out: out * math.inf):
        made.step(6)
    after = made.state_dict()
    assert same(before["model"], after["model"])
    assert same(before["ema"], after["ema"])
    assert same(before["optimiser"]["state"], after["optimiser"]["state"])
    assert "loss" not in made.take_scalars()
    if precision == "fp32":
        with pytest.raises(NonFiniteError, match="step 6"):
            made.check(6)
    else:
        made.check(6)
    made.step(7)
    assert "loss" in made.take_scalars()
    assert made.ema.updates == before["ema"]["updates"] + 1


def test_a_deferred_step_is_the_same_step(data):
    """To the last bit, except for the average, whose weight the device computes."""
    now, later = Trainer(tiny_recipe(data), Ranks()), deferred(tiny_recipe(data), Ranks())
    for step in range(8):
        now.step(step)
        later.step(step)
    assert now.take_scalars()["loss"] == later.take_scalars()["loss"]
    first, second = now.state_dict(), later.state_dict()
    assert same(first["model"], second["model"])
    assert first["ema"]["updates"] == second["ema"]["updates"] == 8
    torch.testing.assert_close(second["ema"]["average"], first["ema"]["average"], rtol=1e-5, atol=1e-7)


def _overflowing(ranks, recipe):
    """Three steps, of which the last overflows on rank 1."""
    made = Trainer(recipe, ranks)
    made.warm_up()
    for step in range(3):
        is_overflowing = (ranks.rank, step) == (1, 2)
        with made.net.register_forward_hook(overflow) if is_overflowing else contextlib.nullcontext():
            made.step(step)
        if step == 1:
            made.take_scalars()
    scalars = made.take_scalars()
    return scalars["skipped_steps"], scalars.get("loss"), made.net.state_dict()


def test_an_overflow_on_one_rank_is_skipped_by_all(data, tmp_path):
    first, second = spawned(_overflowing, tmp_path, 2, tiny_recipe(data, "train.precision=fp16"))
    assert first[:2] == second[:2] == (1.0, None)
    assert same(first[2], second[2])
    assert all(bool(torch.isfinite(tensor).all()) for tensor in first[2].values())


def test_a_run_survives_an_overflow_in_a_forward_pass(data, tmp_path, monkeypatch):
    original = Trainer._backward

    def backward(self, step):
        with self.net.register_forward_hook(overflow) if step == 6 else contextlib.nullcontext():
            return original(self, step)

    monkeypatch.setattr(Trainer, "_backward", backward)
    seen, report = {}, Monitor.report
    monkeypatch.setattr(
        Monitor, "report", lambda self, step, scalars: seen.update({step: scalars}) or report(self, step, scalars)
    )
    run = run_folder(tmp_path, data, "train.precision=fp16")
    assert attempt(run).cause == "finished"
    assert not any(isinstance(event, events.RolledBack) for event in run.ledger.events())
    assert seen[9]["skipped_steps"] >= 1
    assert all(math.isfinite(scalars.get("loss", 0.0)) for scalars in seen.values())
