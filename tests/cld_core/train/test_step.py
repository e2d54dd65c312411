"""One optimiser step: whose noise it uses, and that the number of ranks and micro-batches does not matter."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from cld_core import optim, seeds
from cld_core.config import load
from cld_core.config.train import OptimSpec
from cld_core.errors import CheckpointError
from cld_core.ranks import Ranks
from cld_core.train import health
from cld_core.train.health import ENDS, RANGES, Interval
from cld_core.train.step import Trainer
from tests.support.clock import Clock
from tests.support.images import clone
from tests.support.paths import RECIPES, TOY
from tests.support.spawned import spawned
from tests.support.tools import same, stepped
from tests.support.waits import Waits

SMALL = ("network.width=16", "network.layers=3", "train.batch_size=10")


def trainer(*overrides, noise_key=0):
    return Trainer(load(TOY, [*SMALL, *overrides]), Ranks(), noise_key)


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
    settings = [text for text in SMALL if text.split("=")[0] not in ("network.width", "network.layers")]
    made = Trainer(load(TOY, [*settings, "train.batch_size=64", "optim.lr=0.01", *overrides]), Ranks())
    losses = []
    for block in range(2):
        losses.append(stepped(made, 40 * block + 40, first=40 * block).take_scalars()["loss"])
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[1] < losses[0]


def test_the_optimiser_sees_a_gradient_of_at_most_the_norm_of_the_recipe():
    """After one step, Adam's first moment is a tenth of the gradient."""
    moments = trained(1, "optim.grad_clip=0.001").optimiser.state_dict()["state"].values()
    norm = torch.stack([moment["exp_avg"].norm() for moment in moments]).norm() / 0.1
    assert float(norm) == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("more", [(), ("data.labels=true",)])
def test_the_state_is_all_that_the_next_step_depends_on(more):
    whole, part, resumed = trained(7, *more), trained(4, *more), trainer(*more)
    resumed.load_state_dict(part.state_dict())
    assert same(whole.state_dict(), stepped(resumed, 7, first=4).state_dict())


@pytest.mark.parametrize("micro_batch", [1, 3, 10])
def test_micro_batches_change_the_rounding_only(micro_batch):
    whole, cut = trained(5), trained(5, f"train.micro_batch={micro_batch}")
    assert whole.take_scalars()["loss"] == pytest.approx(cut.take_scalars()["loss"], rel=1e-5)
    torch.testing.assert_close(cut.net.state_dict(), whole.net.state_dict(), rtol=1e-4, atol=1e-6)


def _trained(ranks, overrides):
    made = Trainer(load(TOY, [*SMALL, *overrides]), ranks)
    made.warm_up()
    stepped(made, 5)
    return {"net": made.net.state_dict(), "loss": made.take_scalars()["loss"]}


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "overrides"), [(2, ()), (3, ()), (3, ("data.labels=true",))])
def test_ranks_change_the_rounding_only(tmp_path, world_size, overrides):
    """10 examples on 3 ranks: shares of 4, 3 and 3 are weighed by their rows."""
    found, alone = spawned(_trained, tmp_path, world_size, overrides), trained(5, *overrides)
    loss = alone.take_scalars()["loss"]
    for entry in found:
        assert entry["loss"] == pytest.approx(loss, rel=1e-5)
        assert same(entry["net"], found[0]["net"])
        torch.testing.assert_close(entry["net"], alone.net.state_dict(), rtol=1e-4, atol=1e-6)


def test_a_state_of_another_network_is_refused():
    with pytest.raises(CheckpointError, match="does not fit the recipe"):
        trainer().load_state_dict(trainer("network.width=8").state_dict())


def test_the_rate_warms_up_linearly():
    spec = OptimSpec(lr=2.0, warmup_steps=4)
    assert [optim.rate(spec, step, 6) for step in range(6)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert optim.rate(OptimSpec(lr=2.0), 0, 6) == 2.0


@pytest.mark.parametrize(
    ("decay", "factors"),
    [("none", [1, 1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25, 0]), ("cosine", [1, 0.85355339, 0.5, 0.14644661, 0])],
)
def test_the_rate_decays_to_zero_at_the_last_step(decay, factors):
    spec = OptimSpec(lr=2.0, decay=decay)
    assert [optim.rate(spec, step, 8) for step in (0, 2, 4, 6, 8)] == pytest.approx([2 * f for f in factors])
    assert optim.rate(spec, 20, 8) == pytest.approx(2 * factors[-1]), "a run that is already longer"
    assert optim.rate(replace(spec, warmup_steps=4), 2, 8) == pytest.approx(factors[1]), "times the warm-up"


DECAYING = ("optim.decay=cosine", "optim.warmup_steps=2", "network.input_features=8")


def test_a_longer_run_goes_on_at_the_rate_of_its_length():
    resumed = trainer("train.steps=12", *DECAYING)
    resumed.load_state_dict(trained(6, "train.steps=6", *DECAYING).state_dict())
    resumed.step(6)
    spec = resumed.recipe.optim
    assert resumed.take_scalars()["lr"] == optim.rate(spec, 6, 12) == pytest.approx(0.5 * spec.lr)


def test_fixed_frequencies_are_not_trained():
    before = trainer(*DECAYING).net.frequencies.clone()
    assert torch.equal(trained(3, *DECAYING).net.frequencies, before)


def labelled(*overrides):
    return Trainer(load(RECIPES / "toy_diamond.yaml", [*SMALL, "data.labels=true", *overrides]), Ranks())


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
    named, plain = labelled(), labelled("data.labels=false")
    assert torch.equal(named._examples(3, slice(0, 10))[0], plain._examples(3, slice(0, 10))[0])
    assert plain._examples(3, slice(0, 10))[1] is None
    assert "classes" not in plain.state_dict()


def test_a_checkpoint_of_other_classes_is_refused():
    state = clone(labelled().state_dict())
    state["classes"] = {**state["classes"], "names": [f"mode {number}" for number in range(9)]}
    with pytest.raises(CheckpointError, match=r"the classes of the data are others .*: mode 0, mode 1"):
        labelled().load_state_dict(state)


GOOD, BAD = torch.tensor(False), torch.tensor(True)


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
    expected = {"loss_at_t/0_to_0.0003": 5.0, "loss_at_t/0.1_to_0.3": 3.0, "loss_at_t/0.3_to_1": 4.0}
    assert found.take() == {"loss": 15.0, "data_wait_s": 0.5, "skipped_steps": 0.0, **expected}
    assert ranges(found) == {}
    assert set(expected) < set(RANGES)
    assert len(RANGES) == len(ENDS) == 8


def test_skipped_steps_do_not_count():
    found = Interval(Ranks())
    seen(found, numbers(0.2), torch.tensor([math.inf]), BAD)
    seen(found, numbers(0.2), torch.tensor([math.nan]), BAD)
    seen(found, numbers(0.2), torch.tensor([3.0]))
    scalars = found.take()
    assert scalars == {"loss": 3.0, "loss_at_t/0.1_to_0.3": 3.0, "data_wait_s": 0.5, "skipped_steps": 2.0}


def test_any_number_of_steps_is_summed_up_without_waiting():
    found = Interval(Ranks())
    steps = [(numbers(0.02, 0.5), torch.tensor([float(step), 1.0])) for step in range(200)]
    with Waits() as waits:
        for t, losses in steps:
            seen(found, t, losses)
    assert waits.names == []
    assert ranges(found) == {"loss_at_t/0.01_to_0.03": 99.5, "loss_at_t/0.3_to_1": 1.0}


def test_ranks_are_summed(monkeypatch):
    monkeypatch.setattr(Ranks, "sums", lambda self, values: values + torch.stack([4.0 * values[1], values[1]]))
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
    recipe = load(TOY, [*SMALL, *more])
    made = Trainer(recipe, Ranks())
    counted = Counter()
    for step in range(5):
        made.step(step)
        t = made.loss.draw(seeds.generator(recipe.train.seed, 0, step, "noise"), 10, (2,)).t
        counted.update(RANGES[next(i for i, end in enumerate(ENDS) if value <= end)] for value in t.tolist())
    scalars = made.take_scalars()
    found = {name: value for name, value in scalars.items() if name.startswith("loss_at_t/")}
    assert set(found) == set(counted)
    mean = sum(value * counted[name] for name, value in found.items()) / 50
    assert mean == pytest.approx(scalars["loss"], rel=1e-6)
