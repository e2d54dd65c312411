"""An optimiser of one function and one line of the registry: it trains, and a checkpoint continues
it."""

from dataclasses import dataclass
from typing import Literal

import pytest
import torch

from cld_core import optim
from cld_core.config.keys import key
from cld_core.config.train import OptimSpec
from cld_core.errors import RecipeError
from cld_core.plugins import register
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer
from tests.support.recipes import toy_recipe
from tests.support.tools import same, stepped


@dataclass(frozen=True, kw_only=True)
class SgdSpec(OptimSpec):
    name: Literal["sgd"] = key("sgd", "gradient descent with momentum")
    momentum: float = key(0.9, "decay of the running sum of gradients", ge=0, lt=1)


def sgd(spec, parameters):
    return torch.optim.SGD(parameters, spec.lr, spec.momentum, weight_decay=spec.weight_decay)


@pytest.fixture
def recipe():
    register("optim", "sgd", sgd, SgdSpec)
    keys = ["network.width=8", "network.layers=2", "train.batch_size=8", "optim.grad_clip=null"]
    return toy_recipe(*keys, "optim.lr=0.1", "optim.name=sgd", "optim.momentum=0.5")


def test_an_optimiser_is_added_in_one_file(recipe):
    assert recipe.optim == SgdSpec(lr=0.1, momentum=0.5, grad_clip=None)
    trainer = Trainer(recipe, Ranks())
    weights = [parameter.detach().clone() for parameter in trainer.net.parameters()]
    stepped(trainer, 1)
    # The first step is along the gradient, which is the momentum that it leaves.
    for before, after in zip(weights, trainer.net.parameters(), strict=True):
        gradient = trainer.optimiser.state[after]["momentum_buffer"]
        rate = optim.rate(recipe.optim, 0, recipe.train.steps)
        torch.testing.assert_close(after.detach(), before - rate * gradient)


def test_its_state_is_part_of_a_checkpoint(recipe):
    whole = stepped(Trainer(recipe, Ranks()), 4)
    resumed = Trainer(recipe, Ranks())
    resumed.load_state_dict(stepped(Trainer(recipe, Ranks()), 2).state_dict())
    stepped(resumed, 4, first=2)
    assert same(whole.net.state_dict(), resumed.net.state_dict())


def test_what_is_no_optimiser_is_refused(recipe):
    register("optim", "sgd", lambda spec, parameters: list(parameters), SgdSpec)
    with pytest.raises(RecipeError, match=r"'optim\.name': sgd of .*list, not a torch\.optim"):
        Trainer(recipe, Ranks())
