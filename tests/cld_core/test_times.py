"""Importance sampling of t: the same mean, and less variance."""

import math

import pytest
import torch

from cld_core.config.train import ObjectiveSpec
from cld_core.loss import Importance, ScoreMatching
from cld_core.score import Score
from cld_core.sde import CLD, VPSDE
from cld_core.seeds import SampleNoise
from tests.support.numeric import BothScored

EPS = 1e-4


@pytest.mark.parametrize(
    "weight", [lambda t: 1 / t, lambda t: torch.ones_like(t), lambda t: t**-2, lambda t: 1e-3 + (6 * t).cos() ** 2]
)
def test_the_mean_over_times_is_that_of_uniform_ones_whatever_the_weight(weight):
    draw, n = Importance(weight, EPS), 400_000
    u01 = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    t, importance = draw(u01)
    assert float(t.min()) >= EPS * (1 - 1e-12)
    assert float(t.max()) <= 1.0
    assert torch.equal(t, t.sort().values)
    for f, integral in ((torch.ones_like, 1 - EPS), (torch.log, EPS - 1 - EPS * math.log(EPS))):
        assert float((importance * f(t)).mean()) == pytest.approx(integral / (1 - EPS), rel=2e-3)


def test_times_are_as_frequent_as_their_weight():
    t, importance = Importance(lambda t: 1 / t, EPS)(torch.tensor([0.0, 0.25, 0.5, 0.75], dtype=torch.float64))
    torch.testing.assert_close(t, torch.tensor([1e-4, 1e-3, 1e-2, 1e-1], dtype=torch.float64), rtol=1e-9, atol=0)
    # The density of uniform times, 1 / (1 - eps), over 1 / (t log(1 / eps)).
    torch.testing.assert_close(importance, t * -math.log(EPS) / (1 - EPS), rtol=1e-9, atol=0)
    ends, _ = Importance(lambda t: 1 / t, EPS)(torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([EPS, 1.0], rel=1e-9)


class Zero(torch.nn.Module):
    """Predicts no noise: the error is the noise itself, and every loss is known."""

    def __init__(self, sde):
        super().__init__()
        self.sde = sde

    def forward(self, u, t):
        return torch.zeros_like(self.sde.scored(u))


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(
    ("sde", "gain"), [(CLD(), 6.5), (VPSDE(), 300.0), (BothScored(), 2.0)], ids=["cld", "vpsde", "n=2, m=2"]
)
def test_the_likelihood_weighted_loss_keeps_its_mean_and_loses_variance(sde, gain, each):
    """The variance of uniform times is computed by quadrature over log t, that of importance sampling is drawn."""
    objective = ObjectiveSpec(weighting="likelihood", times="importance", loss_eps=1e-5)
    matching, n, d = ScoreMatching(sde, objective), 40_000, 2
    log_t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000 * math.log(1e-5)
    root, t = matching.weight_root(log_t.exp()), log_t.exp() * -math.log(1e-5) / (1 - 1e-5)
    weight = root.mT @ root
    trace, squares = weight.diagonal(dim1=1, dim2=2).sum(1), weight.square().sum((1, 2))
    mean = float((t * trace).mean()) * d
    # Of e^T W e for normal e in d dimensions.
    uniform = float((t * (2 * d * squares + (d * trace).square())).mean()) - mean**2
    if each:
        draws = matching.draw_each(SampleNoise(0, "test", first=0, last=n), (d,))
    else:
        draws = matching.draw(torch.Generator().manual_seed(0), n, (d,))
    losses = matching.per_sample(Score(sde, objective, Zero(sde)), torch.zeros(n, d), draws).double()
    assert float(losses.mean()) == pytest.approx(mean, rel=4 * float(losses.std()) / mean / n**0.5)
    assert uniform / float(losses.var()) > gain
    if sde.m == 1:
        # What is left is the variance of |e|^2 alone.
        assert float(losses.var()) == pytest.approx(mean**2 * 2 / d, rel=0.05)
