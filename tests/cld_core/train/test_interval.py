"""What is accumulated over a log interval: exact means over steps and ranks, in ranges of t, too, and own times."""

import math
from collections import Counter

import pytest
import torch

from cld_core import seeds
from cld_core.config import load
from cld_core.ranks import Ranks
from cld_core.train import step as stepping
from cld_core.train.step import ENDS, RANGES, Interval, Trainer
from tests.support.clock import Clock
from tests.support.paths import RECIPES
from tests.support.waits import Waits

SMALL = ("network.width=16", "network.layers=3", "train.batch_size=10")
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
    monkeypatch.setattr(stepping, "time", clock)
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
    recipe = load(RECIPES / "toy.yaml", [*SMALL, *more])
    made = Trainer(recipe, Ranks())
    counted: Counter[str] = Counter()
    for step in range(5):
        made.step(step)
        t = made.loss.draw(seeds.generator(recipe.train.seed, 0, step, "noise"), 10, (2,)).t
        counted.update(RANGES[next(i for i, end in enumerate(ENDS) if value <= end)] for value in t.tolist())
    scalars = made.take_scalars()
    found = {name: value for name, value in scalars.items() if name.startswith("loss_at_t/")}
    assert set(found) == set(counted)
    mean = sum(value * counted[name] for name, value in found.items()) / 50
    assert mean == pytest.approx(scalars["loss"], rel=1e-6)
