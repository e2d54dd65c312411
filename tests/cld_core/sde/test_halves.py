"""Everything that is written for n halves, the last m scored, with shapes that CLD and VPSDE do not have."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from cld_core.analytic import GaussianMixture
from cld_core.config.train import ObjectiveSpec
from cld_core.likelihood import log_density
from cld_core.loss import Draws, ScoreMatching
from cld_core.score import Score
from cld_core.sde import CLD, VPSDE
from cld_core.sde.matrices import apply
from tests.support.affine import flow_covariance, output_covariance, spec_of
from tests.support.numeric import BothScored, ThirdOrder, drift

# Of normal data. For 0.5, K is exact if x is scored, and nothing is left to interpolate.
STD = {BothScored(): 0.8, ThirdOrder(): 0.5}
SHAPES = pytest.mark.parametrize("sde", STD, ids=["n=2, m=2", "n=3, m=1"])
ALL = pytest.mark.parametrize("sde", [CLD(beta0=0.1, beta1=6.9), VPSDE(), *STD], ids=["cld", "vpsde", "2, 2", "3, 1"])
LAW = GaussianMixture(torch.tensor([[-0.4, 0.2], [0.7, 0.1], [0.0, -1.0]]), 0.3, torch.tensor([1.0, 2.0, 3.0]))


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class AlphaOfExactScore(torch.nn.Module):
    """The network whose score, plain or mixed, is the exact one."""

    def __init__(self, sde, objective):
        super().__init__()
        self.sde, self.objective, self.exact = sde, objective, LAW.score(sde)

    def forward(self, u, t):
        target, known, _ = self.sde.mixed(t, self.objective.name)
        rest = self.exact(u, t) + (apply(known, self.sde.scored(u)) if self.objective.mixed_score else 0.0)
        return -apply(torch.linalg.inv(target), rest)


@ALL
def test_the_score_is_the_derivative_of_the_log_density(sde):
    score = LAW.score(sde)
    for t in (0.01, 0.3, 1.0):
        leaf = numbers(5, sde.n * LAW.dimension).requires_grad_()
        (gradient,) = torch.autograd.grad(score.log_density(leaf, t).sum(), leaf)
        torch.testing.assert_close(score(leaf.detach(), t), sde.scored(gradient), rtol=1e-8, atol=1e-8)


@ALL
@pytest.mark.parametrize("name", ["hsm", "dsm"])
def test_perturbed_data_have_the_moments_of_the_law(sde, name):
    n = 200_000
    matching = ScoreMatching(sde, ObjectiveSpec(name=name))
    draws = matching.draw(torch.Generator().manual_seed(0), n, (1,))
    assert (draws.initial is None) == (name == "hsm" or sde.n == 1)
    draws = replace(draws, t=torch.full((n,), 0.1, dtype=torch.float64))
    u = matching.perturb(torch.full((n, 1), 0.7), draws).double()
    mean = sde.mean(0.1)[:, 0] * 0.7
    torch.testing.assert_close(u.mean(0), mean, rtol=0, atol=5 / n**0.5)
    # Once the initial halves are drawn, DSM's marginal is HSM's kernel.
    factor = sde.factor(0.1)
    expected = factor @ factor.T
    torch.testing.assert_close(torch.cov(u.T).view_as(expected), expected, rtol=0.02, atol=3e-3)


@SHAPES
@pytest.mark.parametrize("mixed", [False, True])
def test_scores_and_losses(sde, mixed):
    x, t = LAW.sample(6, torch.Generator().manual_seed(0)).double(), torch.linspace(0.05, 1.0, 6, dtype=torch.float64)
    draws = Draws(t, numbers(6, 2 * sde.n), None)
    e = sde.scored(draws.noise)
    for weighting in ("reweightedv2", "reweightedv1", "likelihood"):
        objective = ObjectiveSpec(weighting=weighting, mixed_score=mixed)
        score, matching = Score(sde, objective, AlphaOfExactScore(sde, objective)), ScoreMatching(sde, objective)
        u = matching.perturb(x, draws)
        exact, target = LAW.score(sde)(u, t), sde.target(t)
        torch.testing.assert_close(score(u, t), exact, rtol=1e-9, atol=1e-9)
        predicted = -apply(torch.linalg.inv(target), exact)
        torch.testing.assert_close(score.predicted_noise(u, t), predicted, rtol=1e-9, atol=1e-9)
        error = predicted - e if weighting != "likelihood" else exact + apply(target, e)
        rates = [torch.ones(6)] * sde.m if weighting == "reweightedv2" else (0.5 * sde.diffusion2(t)).unbind(1)
        expected = sum(g * part.square().sum(1) for g, part in zip(rates, sde.scored_halves(error), strict=True))
        torch.testing.assert_close(matching.per_sample(score, x, draws), expected, rtol=1e-8, atol=1e-8)


@SHAPES
def test_the_generic_tensors_agree_with_each_other(sde):
    u, s = numbers(4, 2 * sde.n), numbers(4, 2 * sde.m, seed=1)
    pull = torch.zeros_like(u)
    sde.scored(pull).copy_(apply(torch.diag(sde.diffusion2(0.3)), s))
    torch.testing.assert_close(sde.flow(u, s, 0.3), drift(sde, u, 0.3) - 0.5 * pull)
    torch.testing.assert_close(sde.euler_step(u, s, 0.3, 0.1), u - 0.1 * (drift(sde, u, 0.3) - pull))
    normal = torch.distributions.Normal(0.0, torch.tensor(sde.prior_std).repeat_interleave(2).double())
    torch.testing.assert_close(sde.prior_logp(u), normal.log_prob(u).sum(1))
    torch.testing.assert_close(sde.prior(u), u * normal.scale)


@pytest.fixture(scope="module")
def ends():
    """Covariances to which the probability flow carries the prior."""
    return {sde: flow_covariance(sde, eps=0.1, std=std) for sde, std in STD.items()}


@SHAPES
def test_the_flow_ends_in_the_exact_law(sde, ends):
    law = sde.law(0.1, data_std=STD[sde])
    # The prior is not quite the law at t = 1.
    torch.testing.assert_close(ends[sde], law @ law.T, rtol=0, atol=3e-3)


@SHAPES
@pytest.mark.parametrize(
    ("keys", "order"),
    [
        ({"method": "exponential", "order": 1, "corrector": False}, 2.0),
        ({"method": "exponential", "order": 2, "corrector": False}, 3.0),
        ({"method": "exponential", "order": 1, "corrector": False, "eta": 1.0}, 2.0),
        ({"method": "em"}, 1.0),
        ({"method": "sscs"}, 1.0),
        ({"method": "sscs", "sscs_order": 2}, 2.0),
    ],
    ids=str,
)
def test_samplers_converge_to_the_law_of_the_flow(sde, keys, order, ends):
    if keys["method"] != "exponential":
        # The kernel of three halves is too inaccurate for the short steps of the quadratic grid.
        keys = {**keys, "grid": "quadratic" if sde.n == 2 else "linear"}
    # Three halves show their orders later than two.
    numbers = (20, 40, 80) if sde.n == 2 else (80, 160, 320)
    found = [output_covariance(sde, spec_of(**keys, nfe=n, eps=0.1, denoise=False), STD[sde]) for n in numbers]
    differences = [float((a - b).abs().max()) for a, b in pairwise(found)]
    assert math.log2(differences[0] / differences[1]) == pytest.approx(order, abs=0.35), differences
    # The reverse SDE forgets how far the prior is from the law at t = 1; the flow does not.
    assert float((found[-1] - ends[sde]).abs().max()) < (0.15 if order == 1.0 else 1e-3)


@SHAPES
def test_probes_average_to_the_exact_trace(sde):
    law = GaussianMixture(torch.tensor([[-0.4], [0.7]]), 0.3)
    score, u = law.score(sde), numbers(2, sde.n)
    # The field is the same, and so are the steps, however long they are.
    exact = log_density(score, sde, u, None, eps=0.3, rtol=1e-3, atol=1e-3)[0]
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * sde.m).view(-1, sde.m)
    averaged = log_density(score, sde, u, signs.expand(2, -1, sde.m), eps=0.3, rtol=1e-3, atol=1e-3)[0]
    torch.testing.assert_close(averaged, exact, rtol=0, atol=1e-10)
