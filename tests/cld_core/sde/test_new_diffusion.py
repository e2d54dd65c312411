"""A diffusion is added in one file: a spec, an implementation, one registry call.

It is CLD again, from its constants alone. So it must agree with `CLD` except for rounding, through
training, sampling and the likelihood.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
import torch

from cld_core import samplers
from cld_core.config.keys import key
from cld_core.config.registry import SECTIONS
from cld_core.config.sde import SdeSpec
from cld_core.errors import RecipeError
from cld_core.likelihood import likelihood
from cld_core.plugins import Variant, register
from cld_core.ranks import Ranks
from cld_core.score import Score
from cld_core.sde import CLD, Diffusion
from cld_core.seeds import SampleNoise
from cld_core.train.step import Trainer
from tests.support.affine import spec_of
from tests.support.recipes import toy_recipe
from tests.support.tools import stepped


@dataclass(frozen=True, kw_only=True)
class LangevinSpec(SdeSpec):
    splittable: ClassVar[bool] = True

    name: Literal["langevin"] = key("langevin", "Langevin diffusion of mass 1/4")
    beta0: float = key(4.0, "beta(t) = beta0 + beta1 t", ge=0)
    beta1: float = key(0.0, "beta(t) = beta0 + beta1 t", ge=0)


@dataclass(frozen=True, kw_only=True)
class Langevin(Diffusion):
    n = 2
    m = 1
    numerical_eps: float = 1e-6

    A = ((0.0, 4.0), (-1.0, -4.0))
    D = (2.0,)
    prior_std = (1.0, 0.5)
    initial_std = (0.1,)


@pytest.fixture(autouse=True)
def registered():
    register("sde", "langevin", f"{__name__}:Langevin", LangevinSpec)


def test_from_a_recipe_through_training_to_samples_and_a_bound():
    settings = (
        "data.name=diamond",
        "network.width=16",
        "network.layers=3",
        "train.batch_size=16",
        "sde.beta0=6",
    )
    settings += ("eval.elbo.rtol=1e-3", "eval.elbo.atol=1e-3")
    results, fixed = [], [spec_of(method, nfe=50) for method in ("em", "sscs", "exponential")]
    for name in ("langevin", "cld"):
        recipe = toy_recipe(f"sde.name={name}", *settings)
        trainer = stepped(Trainer(recipe, Ranks()), 20)
        assert isinstance(trainer.sde, Langevin if name == "langevin" else CLD)
        score, keyed = Score(trainer.sde, recipe.objective, trainer.net), {"first": 0, "last": 8}
        x = trainer.source.dequantised_test_data(0, **keyed)
        bound = likelihood(score, trainer.sde, recipe.eval.elbo, SampleNoise(0, **keyed), x).elbo
        samples = [
            samplers.sample(score, trainer.sde, spec, SampleNoise(0, **keyed), (2,)).x
            for spec in (spec_of("ode", rtol=1e-3, atol=1e-3), *fixed)
        ]
        results.append([*trainer.net.parameters(), bound.float(), *samples])
    # Training is in float32.
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


@dataclass(frozen=True, kw_only=True)
class Unsplit(LangevinSpec):
    splittable: ClassVar[bool] = False


def test_a_spec_says_that_its_diffusion_is_not_to_be_split():
    SECTIONS["sde"].variants["langevin"] = Variant(Unsplit, f"{__name__}:Langevin")
    with pytest.raises(
        RecipeError, match=r"cannot be sscs with sde\.name=langevin, which cannot be split"
    ):
        toy_recipe("sde.name=langevin", "sampling.method=sscs")
