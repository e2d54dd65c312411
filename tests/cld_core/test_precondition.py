"""Data-variance preconditioning: exact on Gaussian data, of unit variance on any, and the same score everywhere."""

from dataclasses import replace

import pytest
import torch

from cld_core import nets
from cld_core.analytic import gaussian
from cld_core.config import load
from cld_core.config.network import MlpSpec
from cld_core.config.train import ObjectiveSpec
from cld_core.loss import ScoreMatching
from cld_core.ranks import Ranks
from cld_core.score import Score, preconditioning
from cld_core.sde import CLD, VPSDE
from cld_core.sde.matrices import apply
from cld_core.train.step import Trainer
from tests.support.numeric import BothScored, ThirdOrder
from tests.support.paths import RECIPES

STD = 0.3
EXACT = ObjectiveSpec(precondition="data", data_std=STD)
SDES = pytest.mark.parametrize(
    "sde",
    [VPSDE(beta1=2.0, numerical_eps=0.0), CLD(numerical_eps=0.0), BothScored(), ThirdOrder()],
    ids=["vpsde", "cld", "n=2, m=2", "n=3, m=1"],
)
OBJECTIVES = pytest.mark.parametrize("name", ["hsm", "dsm"])


class Zero(torch.nn.Module):
    """A network that has learned nothing, which is what there is to learn of Gaussian data."""

    def __init__(self, sde):
        super().__init__()
        self.sde = sde

    def forward(self, u, t):
        return torch.zeros_like(self.sde.scored(u))


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(sde):
    torch.manual_seed(0)
    spec = MlpSpec(width=8, layers=2)
    return nets.build(spec, data_shape=(2,), halves_in=sde.n, halves_out=sde.m).double().requires_grad_(False)


@SDES
@OBJECTIVES
def test_nothing_is_left_to_learn_of_gaussian_data(sde, name):
    u, exact = numbers(20, 2 * sde.n), gaussian(STD).score(sde)
    score = Score(sde, replace(EXACT, name=name), Zero(sde))
    times = torch.tensor([1e-4, 1e-2, 0.3, 1.0], dtype=torch.float64)
    for t in times.tolist():
        torch.testing.assert_close(score(u, t), exact(u, t), rtol=1e-11, atol=1e-11)
    each = times[:, None].expand(4, 20)
    for stage, t in zip(score.at(each, torch.float64), times.tolist(), strict=True):
        torch.testing.assert_close(stage(u), exact(u, t), rtol=1e-11, atol=1e-11)


@SDES
def test_input_and_target_have_unit_variance_and_the_linear_part_is_the_best_one(sde):
    """By the exact covariances of z and of the target with the draws (x / std, e)."""
    first = sde.n - sde.m
    for t in (1e-3, 0.05, 0.4, 1.0):
        found = preconditioning(sde, t, STD)
        # u and the score of the kernel, as linear maps of x / std and the noise.
        factor = sde.factor(t)
        u = torch.cat([STD * sde.mean(t)[:, :1], factor], dim=1)
        score = torch.zeros(sde.m, 1 + sde.n, dtype=torch.float64)
        score[:, 1 + first :] = -sde.target(t)
        z = found.whiten @ u
        target = torch.linalg.inv(found.output) @ (score + found.precision @ z[first:])
        torch.testing.assert_close(z @ z.T, torch.eye(sde.n, dtype=torch.float64), rtol=0, atol=1e-9)
        ones = torch.ones(sde.m, dtype=torch.float64)
        torch.testing.assert_close((target @ target.T).diag(), ones, rtol=1e-6, atol=0)
        torch.testing.assert_close(target @ z.T, torch.zeros(sde.m, sde.n, dtype=torch.float64), rtol=0, atol=1e-6)


@SDES
@OBJECTIVES
def test_predicted_noise_and_losses_are_those_of_the_score(sde, name):
    objective = replace(EXACT, name=name, weighting="likelihood")
    score, matching = Score(sde, objective, network(sde)), ScoreMatching(sde, objective)
    t, u = torch.linspace(0.05, 1.0, 6, dtype=torch.float64), numbers(6, 2 * sde.n)
    target = sde.target(t, name)
    expected = -apply(torch.linalg.inv(target), score(u, t))
    torch.testing.assert_close(score.predicted_noise(u, t), expected, rtol=1e-9, atol=1e-9)
    draws = matching.draw(torch.Generator().manual_seed(0), 6, (2,))
    draws = replace(
        draws, t=t, noise=draws.noise.double(), initial=None if draws.initial is None else draws.initial.double()
    )
    x = numbers(6, 2, seed=1)
    error = score(matching.perturb(x, draws), t) + apply(target, sde.scored(draws.noise))
    rates = (0.5 * sde.diffusion2(t)).unbind(1)
    squares = sum(g * part.square().sum(1) for g, part in zip(rates, sde.scored_halves(error), strict=True))
    torch.testing.assert_close(matching.per_sample(score, x, draws), squares, rtol=1e-8, atol=1e-8)


def test_numerical_eps_is_part_of_what_the_linear_part_knows():
    sde = CLD(numerical_eps=1e-3)
    matching, n = ScoreMatching(sde, EXACT), 200_000
    draws = replace(matching.draw(torch.Generator().manual_seed(0), n, (1,)), t=torch.full((n,), 0.02).double())
    u = matching.perturb(STD * numbers(n, 1, seed=1).float(), draws)
    z = u.double() @ preconditioning(sde, 0.02, STD).whiten.T
    torch.testing.assert_close(torch.cov(z.T), torch.eye(2, dtype=torch.float64), rtol=0, atol=5e-3 * 3)


def test_training_learns_what_is_not_gaussian():
    """With the same data, times and noise, the loss is lower than that of a network which stays as it was made."""
    losses = []
    for rate in ("0.01", "1e-12"):
        settings = ("objective.precondition=data", "train.batch_size=64", f"optim.lr={rate}", "network.width=32")
        made = Trainer(load(RECIPES / "toy_diamond.yaml", settings), Ranks())
        for step in range(200):
            if step == 100:
                made.take_scalars()
            made.step(step)
        losses.append(made.take_scalars()["loss"])
    assert losses[0] < losses[1]
