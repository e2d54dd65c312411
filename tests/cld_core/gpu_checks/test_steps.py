"""Steps of recipes: what does not fit is halved, and what does not train is found."""

import math

import pytest
import torch

from cld_core.ema import Ema
from cld_core.gpu_checks import overflow, steps
from cld_core.train.gradients import GradientFilter
from cld_core.train.step import Trainer


def limited(monkeypatch, rows):
    """Let more rows than this be too many for the memory."""
    step = Trainer.step

    def checked(self, *arguments, **options):
        if self.recipe.train.batch_size > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "step", checked)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def test_rows_that_do_not_fit_are_halved(context, monkeypatch):
    limited(monkeypatch, 2)
    finding = steps.check(context, "cifar10")
    assert finding.verdict == "ok"
    assert finding.found.startswith("8 rows do not fit into memory; 2 rows in fp16")
    assert finding.advice == "Set train.micro_batch=2."


def test_a_recipe_that_does_not_fit_at_all_fails(context, monkeypatch):
    limited(monkeypatch, 0)
    assert steps.check(context, "celebahq256").verdict == "fail"


def frozen_average(monkeypatch):
    for name in ("update", "update_unless"):
        monkeypatch.setattr(Ema, name, lambda self, *_: None, raising=False)
    return "average did not change"


def frozen_weights(monkeypatch):
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)
    return "weights did not change"


def always_skipped(monkeypatch):
    check = GradientFilter.check
    monkeypatch.setattr(GradientFilter, "check", lambda self, norm: torch.ones_like(check(self, norm)))
    monkeypatch.setattr(GradientFilter, "take_skipped", lambda self: 1)
    monkeypatch.setattr(steps, "_MOST_STEPS", 3)
    return "each of 3 steps was skipped"


def infinite_loss(monkeypatch):
    monkeypatch.setattr(Trainer, "take_loss", lambda self: math.inf)
    return "the loss is inf"


def weights_that_are_not_finite(monkeypatch):
    def spoil(self):
        with torch.no_grad():
            next(self.net.parameters()).fill_(math.nan)

    monkeypatch.setattr(Trainer, "close", spoil)
    return "weights that are not finite"


@pytest.mark.parametrize(
    "broken", [frozen_average, frozen_weights, always_skipped, infinite_loss, weights_that_are_not_finite]
)
def test_a_step_that_does_not_train_is_found(context, monkeypatch, broken):
    expected = broken(monkeypatch)
    finding = steps.check(context, "cifar10_vpsde")
    assert finding.verdict == "fail"
    assert expected in finding.found


def average_that_moves(monkeypatch):
    step = Trainer.step

    def moving(self, *arguments, **options):
        step(self, *arguments, **options)
        self.ema.average[0].add_(1e-3)

    monkeypatch.setattr(Trainer, "step", moving)
    return "average changed"


def moments_that_move(monkeypatch):
    step = Trainer.step

    def moving(self, *arguments, **options):
        step(self, *arguments, **options)
        next(iter(self.optimiser.state.values()))["exp_avg"].add_(1e-3)

    monkeypatch.setattr(Trainer, "step", moving)
    return "moments changed"


def loss_of_the_overflow(monkeypatch):
    monkeypatch.setattr(Trainer, "take_loss", lambda self: math.nan)
    return "the mean loss is nan"


def scale_that_stays(monkeypatch):
    update = torch.amp.GradScaler.update
    same = lambda self, new_scale=None: update(self, new_scale or self.get_scale())  # noqa: E731
    monkeypatch.setattr(torch.amp.GradScaler, "update", same)
    return "the loss scale went from 256 to 256, not to half"


def everything_skipped(monkeypatch):
    take_skipped = GradientFilter.take_skipped
    monkeypatch.setattr(GradientFilter, "take_skipped", lambda self: take_skipped(self) + 1)
    return "2 steps count as skipped, not 1"


@pytest.mark.parametrize(
    "broken", [average_that_moves, moments_that_move, loss_of_the_overflow, scale_that_stays, everything_skipped]
)
def test_an_overflow_that_changes_more_than_the_scale_is_found(context, monkeypatch, broken):
    expected = broken(monkeypatch)
    finding = overflow.check(context)
    assert finding.verdict == "fail"
    assert expected in finding.found
