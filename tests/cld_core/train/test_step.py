"""One optimiser step: its noise, rate and labels, its report, and the effect of a bad gradient."""

import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from cld_core import optim, seeds
from cld_core.checkpoint import load as load_checkpoint
from cld_core.config.train import OptimSpec
from cld_core.errors import CheckpointError, NonFiniteError
from cld_core.ranks import Ranks
from cld_core.run import events
from cld_core.train import health
from cld_core.train.health import ENDS, RANGES, Interval
from cld_core.train.step import GradientFilter, Trainer
from tests.cld_core.train.conftest import attempt
from tests.support.clock import Clock
from tests.support.images import clone, run_folder, tiny_recipe
from tests.support.recipes import shipped_recipe, toy_recipe
from tests.support.spawned import spawned
from tests.support.tools import same, stepped
from tests.support.waits import Waits

SMALL = ("network.width=16", "network.layers=3", "train.batch_size=10")


def trainer(*overrides, noise_key=0):
    return Trainer(toy_recipe(*SMALL, *overrides), Ranks(), noise_key)


def trained(steps, *overrides, noise_key=0):
    return stepped(trainer(*overrides, noise_key=noise_key), steps)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("objective.name=dsm", "objective.weighting=likelihood"),
        ("sde.name=vpsde", "objective.name=dsm", "objective.mixed_score=true"),
        ("objective.weighting=likelihood", "objective.times=importance"),
        ("network.name=resnet", "network.width=8", "network.layers=2", "optim.name=adamax"),
        ("optim.name=adamw", "optim.weight_decay=0.1", "optim.grad_clip=null", "optim.impl=plain"),
        ("data.labels=true", "network.name=resnet", "network.width=8", "network.layers=2"),
        ("data.labels=true", "train.precision=fp16", "sde.name=vpsde", "objective.name=dsm"),
        ("train.precision=bf16", "network.width=64"),
        ("train.precision=fp16", "network.width=64"),
    ],
    ids=lambda overrides: " ".join(overrides) or "published",
)
def test_every_kind_of_training_lowers_its_loss(overrides):
    made = Trainer(toy_recipe("train.batch_size=64", "optim.lr=0.01", *overrides), Ranks())
    before = stepped(made, 40).take_scalars()["loss"]
    after = stepped(made, 80, first=40).take_scalars()["loss"]
    assert after < before < math.inf


def test_the_optimiser_sees_a_gradient_of_at_most_the_norm_of_the_recipe():
    """After one step, Adam's first moment is a tenth of the gradient."""
    moments = trained(1, "optim.grad_clip=0.001").optimiser.state_dict()["state"].values()
    norm = torch.stack([moment["exp_avg"].norm() for moment in moments]).norm() / 0.1
    assert float(norm) == pytest.approx(0.001, rel=1e-3)


def test_a_state_of_another_network_is_refused():
    with pytest.raises(CheckpointError, match="does not fit the recipe"):
        trainer().load_state_dict(trainer("network.width=8").state_dict())


def test_the_rate_warms_up_linearly():
    spec = OptimSpec(lr=2.0, warmup_steps=4)
    assert [optim.rate(spec, step, 6) for step in range(6)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert optim.rate(OptimSpec(lr=2.0), 0, 6) == 2.0


@pytest.mark.parametrize(
    ("decay", "factors"),
    [
        ("none", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [1, 0.85355339, 0.5, 0.14644661, 0]),
    ],
)
def test_the_rate_decays_to_zero_at_the_last_step(decay, factors):
    spec = OptimSpec(lr=2.0, decay=decay)
    rates = [optim.rate(spec, step, 8) / 2.0 for step in (0, 2, 4, 6, 8)]
    assert rates == pytest.approx(factors)
    assert optim.rate(spec, 20, 8) == pytest.approx(2 * factors[-1]), "a run that is already longer"
    # Times the warm-up.
    assert optim.rate(replace(spec, warmup_steps=4), 2, 8) == pytest.approx(factors[1])


DECAYING = ("optim.decay=cosine", "optim.warmup_steps=2", "network.input_features=8")


def test_a_longer_run_goes_on_at_the_rate_of_its_length():
    resumed = trainer("train.steps=12", *DECAYING)
    frequencies = resumed.net.frequencies.clone()
    resumed.load_state_dict(trained(6, "train.steps=6", *DECAYING).state_dict())
    resumed.step(6)
    spec = resumed.recipe.optim
    assert resumed.take_scalars()["lr"] == optim.rate(spec, 6, 12) == pytest.approx(0.5 * spec.lr)
    assert torch.equal(resumed.net.frequencies, frequencies), "they are not trained"


def labelled(*overrides):
    keys = [*SMALL, "data.labels=true", *overrides]
    return Trainer(shipped_recipe("toy_diamond", *keys), Ranks())


def test_the_share_of_examples_without_a_label_is_that_of_the_recipe():
    made = labelled("train.batch_size=4000", "objective.label_dropout=0.25")
    x, label = made._examples(0, slice(0, 4000))
    free = label == 9
    assert float(free.double().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(label[~free], made.source._labels(x)[~free])
    _, part = made._examples(0, slice(1000, 1500))
    assert torch.equal(part, label[1000:1500])
    assert not torch.equal(made._examples(1, slice(0, 4000))[1] == 9, free)


def test_labels_change_neither_the_data_nor_the_noise():
    """Dropping all labels, a network whose embedding is fixed sees what one without labels sees."""
    named = labelled()
    plain = labelled("data.labels=false")
    assert torch.equal(named._examples(3, slice(0, 10))[0], plain._examples(3, slice(0, 10))[0])
    assert plain._examples(3, slice(0, 10))[1] is None
    assert "classes" not in plain.state_dict()


def test_a_checkpoint_of_other_classes_is_refused():
    state = clone(labelled().state_dict())
    state["classes"] = {**state["classes"], "names": [f"mode {number}" for number in range(9)]}
    words = "the classes of the data are others .*: mode 0, mode 1"
    with pytest.raises(CheckpointError, match=words):
        labelled().load_state_dict(state)


GOOD = torch.tensor(False)
BAD = torch.tensor(True)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def seen(found, t, losses, skip=GOOD):
    found.count(losses.sum(), skip, t, losses, wait_s=0.5)


def ranges(found):
    return {name: value for name, value in found.take().items() if name.startswith("loss_at_t/")}


def test_means_of_ranges_that_have_examples():
    found = Interval(Ranks())
    assert found.take() == {"data_wait_s": 0.0, "skipped_steps": 0.0}
    seen(found, numbers(1e-5, 0.2, 0.25, 1.0), torch.tensor([5.0, 1.0, 2.0, 7.0]))
    seen(found, numbers(0.3, 0.31, 0.9, 0.9), torch.tensor([6.0, 1.0, 4.0, 4.0]))
    for bad in (math.inf, math.nan):
        seen(found, numbers(0.2, 0.2, 0.3, 0.4), torch.full((4,), bad), BAD)
    expected = {"0_to_0.0003": 5.0, "0.1_to_0.3": 3.0, "0.3_to_1": 4.0}
    expected = {f"loss_at_t/{name}": value for name, value in expected.items()}
    assert found.take() == {"loss": 15.0, "data_wait_s": 0.5, "skipped_steps": 2.0, **expected}
    assert ranges(found) == {}
    assert set(expected) < set(RANGES)
    assert len(RANGES) == len(ENDS) == 8


def test_any_number_of_steps_is_summed_up_without_waiting():
    found = Interval(Ranks())
    steps = [(numbers(0.02, 0.5), torch.tensor([float(step), 1.0])) for step in range(200)]
    with Waits() as waits:
        for t, losses in steps:
            seen(found, t, losses)
    assert waits.names == []
    assert ranges(found) == {"loss_at_t/0.01_to_0.03": 99.5, "loss_at_t/0.3_to_1": 1.0}


def test_ranks_are_summed(monkeypatch):
    monkeypatch.setattr(
        Ranks, "sums", lambda self, values: values + torch.stack([4.0 * values[1], values[1]])
    )
    found = Interval(Ranks(world_size=2))
    seen(found, numbers(0.2), torch.tensor([2.0]))
    scalars = found.take()
    assert scalars["loss"] == scalars["loss_at_t/0.1_to_0.3"] == 3.0
    assert scalars["skipped_steps"] == 0.0


def test_the_median_of_a_ranks_own_times(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(health, "time", clock)
    times = Interval(Ranks(world_size=2))
    for seconds in (0.1, 0.2, 5.0):
        times.begin()
        clock.sleep(seconds)
        times.exchange()
        clock.sleep(1.0)
    assert times.take_own_time() == pytest.approx(0.2)
    assert times.take_own_time() == 0.0


@pytest.mark.parametrize("more", [(), ("train.micro_batch=4",)], ids=["whole", "micro-batches"])
def test_their_mean_is_the_loss_of_the_default_weighting(more):
    recipe = toy_recipe(*SMALL, *more)
    made = Trainer(recipe, Ranks())
    counted = Counter()
    for step in range(5):
        made.step(step)
        t = made.loss.draw(seeds.generator(recipe.train.seed, 0, step, "noise"), 10, (2,)).t
        counted.update(
            RANGES[next(i for i, end in enumerate(ENDS) if value <= end)] for value in t.tolist()
        )
    scalars = made.take_scalars()
    found = {name: value for name, value in scalars.items() if name.startswith("loss_at_t/")}
    assert set(found) == set(counted)
    mean = sum(value * counted[name] for name, value in found.items()) / 50
    assert mean == pytest.approx(scalars["loss"], rel=1e-6)


def poisoned(monkeypatch, when):
    """Make the data of steps with ``when(key, step)`` infinite, and return the steps taken."""
    original = Trainer._backward
    steps = []

    def backward(self, step):
        steps.append((self._key[1], step))
        batch = self.source.batch
        if when(self._key[1], step):
            self.source.batch = lambda *arguments: batch(*arguments) * math.inf
        try:
            return original(self, step)
        finally:
            self.source.batch = batch

    monkeypatch.setattr(Trainer, "_backward", backward)
    return steps


def rollbacks(run):
    return [event for event in run.ledger.events() if isinstance(event, events.RolledBack)]


def test_a_bad_gradient_rolls_back_to_the_last_good_checkpoint_with_fresh_noise(
    data, tmp_path, monkeypatch
):
    tried = poisoned(monkeypatch, lambda restart, step: restart == 0 and step == 6)
    run = run_folder(tmp_path, data)
    assert attempt(run) == ("finished", 12)
    assert [step for _, step in tried] == [*range(7), *range(4, 12)]
    assert {restart for restart, _ in tried[7:]} == {1_000_000}
    assert [(event.attempt, event.to_step) for event in rollbacks(run)] == [(0, 4)]
    assert "step 6: not finite or exploding: the gradient's norm is nan" in rollbacks(run)[0].reason
    assert [entry.cause for entry in run.ledger.history().attempts] == ["finished"]
    for step in (8, 12):
        state = load_checkpoint(run, step)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in state["model"].values())


def test_rollbacks_are_bounded_and_a_new_attempt_does_not_count_from_zero(
    data, tmp_path, monkeypatch
):
    tried = poisoned(monkeypatch, lambda _, step: step == 6)
    run = run_folder(tmp_path, data, "train.max_rollbacks=2")
    for number in (1, 2):
        with pytest.raises(NonFiniteError, match=r"2 rollbacks to step 4, .* did not help"):
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
    scale = made.scaler.get_scale()
    before = clone(made.net.state_dict())
    made.step(5)
    assert same(before, made.net.state_dict())
    assert made.scaler.get_scale() == scale / 2
    assert made.take_scalars()["skipped_steps"] == 1
    with pytest.raises(NonFiniteError, match="the loss is inf"):
        made.check(1, math.inf)
    made.scaler.update(0.5)
    with pytest.raises(NonFiniteError, match="overflows at any scale"):
        made.check(1)


def filtered(growth):
    return GradientFilter(growth, torch.device("cpu"), scaled=False)


def test_an_explosion_is_known_from_the_running_mean():
    gradients = filtered(10.0)
    for _ in range(100):
        assert not gradients.check(torch.tensor(2.0))
    assert not gradients.check(torch.tensor(19.0))
    assert gradients.check(torch.tensor(30.0))
    assert gradients.check(torch.tensor(math.nan))
    assert gradients.check(torch.tensor(math.inf))
    assert gradients.bad() == 3
    again = filtered(10.0)
    assert not again.check(torch.tensor(30.0)), "nothing to compare with yet"
    again.load_state_dict(gradients.state_dict())
    assert again.check(torch.tensor(30.0))
    assert not filtered(None).check(torch.tensor(1e30))


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
    recipe = tiny_recipe(data, f"train.precision={precision}", "optim.lr=0.01")
    made = stepped(deferred(recipe, Ranks()), 6)
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
    is_harmless = precision == "fp16"
    with nullcontext() if is_harmless else pytest.raises(NonFiniteError, match="step 6"):
        made.check(6)
    made.step(7)
    assert "loss" in made.take_scalars()
    assert made.ema.updates == before["ema"]["updates"] + 1


def test_a_deferred_step_is_the_same_step(data):
    """To the last bit, except for the average, whose weight the device computes."""
    now = Trainer(tiny_recipe(data), Ranks())
    later = deferred(tiny_recipe(data), Ranks())
    for step in range(8):
        now.step(step)
        later.step(step)
    assert now.take_scalars()["loss"] == later.take_scalars()["loss"]
    first = now.state_dict()
    second = later.state_dict()
    assert same(first["model"], second["model"])
    assert first["ema"]["updates"] == second["ema"]["updates"] == 8
    torch.testing.assert_close(
        second["ema"]["average"], first["ema"]["average"], rtol=1e-5, atol=1e-7
    )


def _overflowing(ranks, recipe):
    """Three steps, of which the last overflows on rank 1."""
    made = Trainer(recipe, ranks)
    made.warm_up()
    for step in range(3):
        is_overflowing = (ranks.rank, step) == (1, 2)
        with made.net.register_forward_hook(overflow) if is_overflowing else nullcontext():
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
