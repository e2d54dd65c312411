"""Training and sampling by noise level, beside the published formulas of EDM and flow matching.

EDM: Karras et al. 2022, arXiv 2206.00364, table 1 and section 5. Flow matching: Lipman et al. 2023,
arXiv 2210.02747; Liu et al. 2023, arXiv 2209.03003.
"""

import pytest
import torch
from torch.testing import assert_close

from cld_core import nets
from cld_core.config.network import MlpSpec
from cld_core.config.train import ObjectiveSpec
from cld_core.errors import RecipeError
from cld_core.loss import Draws, ScoreMatching, noise_levels
from cld_core.score import Score
from cld_core.sde import CLD, HOLD, PSLD, VPSDE
from tests.support.numeric import BothScored, drift, float64, standard_normal

STD = 0.3
EDM = ObjectiveSpec(name="dsm", precondition="edm", weighting="edm", data_std=STD)
FLOW = ObjectiveSpec(name="dsm", precondition="flow", weighting="edm")
SDE = VPSDE(beta0=0.1, beta1=19.9, numerical_eps=0.0)
DIFFUSIONS = [SDE, CLD(numerical_eps=0.0), PSLD(), HOLD(numerical_eps=0.0), BothScored()]
SDES = pytest.mark.parametrize("sde", DIFFUSIONS, ids=lambda sde: type(sde).__name__)
TIMES = float64([1e-4, 0.01, 0.1, 0.3, 0.6, 1.0])


class Example:
    """Points on the path of x at `TIMES`, in the notation of the papers.

    ``net`` is a network with random weights, ``factor`` and ``sigma``, (6, 1), those of u = factor
    (x + sigma e), and ``rate`` is d sigma / d t.
    """

    def __init__(self):
        torch.manual_seed(0)
        net = nets.build(MlpSpec(width=8, layers=2), data_shape=(2,), halves_in=1, halves_out=1)
        self.net = net.double().requires_grad_(False)
        self.x = standard_normal(6, 2, seed=1)
        self.e = standard_normal(6, 2, seed=2)
        big_b = SDE.schedule.integral(TIMES)[:, None]
        self.factor = (-0.5 * big_b).exp()
        self.sigma = big_b.expm1().sqrt()
        self.rate = big_b.exp() * SDE.schedule.beta(TIMES)[:, None] / (2 * self.sigma)
        self.u = self.factor * (self.x + self.sigma * self.e)

    def loss(self, objective):
        """Of the product, (6,)."""
        draws = Draws(TIMES, self.e, None)
        return ScoreMatching(SDE, objective).losses(self.score(objective), self.x, draws).weighted

    def score(self, objective):
        return Score(SDE, objective, self.net)

    def velocity(self, objective):
        """The field of the probability flow of the product, du/dt (6, 2)."""
        score = self.score(objective)(self.u, TIMES)
        return drift(SDE, self.u, TIMES) - 0.5 * SDE.schedule.beta(TIMES)[:, None] * score

    def denoised(self):
        """EDM's D(x + sigma e; sigma)."""
        total = self.sigma**2 + STD**2
        scaled = (self.x + self.sigma * self.e) / total.sqrt()
        output = self.net(scaled, (self.sigma[:, 0].log() / 4).exp())
        skip = STD**2 / total
        return skip * (self.x + self.sigma * self.e) + self.sigma * STD / total.sqrt() * output

    def flow(self):
        """x' at the time t' of flow matching, and the network's velocity."""
        time = self.sigma / (1 + self.sigma)
        point = (1 - time) * self.x + time * self.e
        return point, self.net(point, time[:, 0])


def test_loss_and_sampling_field_are_those_of_edm():
    it = Example()
    denoised = it.denoised()
    weight = (it.sigma**2 + STD**2) / (it.sigma * STD) ** 2
    assert_close(it.loss(EDM), (weight * (denoised - it.x) ** 2).sum(1), rtol=1e-9, atol=0)
    field = (it.x + it.sigma * it.e - denoised) / it.sigma
    # u is factor times the noisy x, whose rate is the field times that of sigma.
    expected = drift(SDE, it.u, TIMES) + it.factor * it.rate * field
    assert_close(it.velocity(EDM), expected, rtol=1e-9, atol=1e-9)


def test_loss_and_sampling_field_are_those_of_flow_matching():
    it = Example()
    point, velocity = it.flow()
    assert_close(it.loss(FLOW), ((velocity - (it.e - it.x)) ** 2).sum(1), rtol=1e-9, atol=0)
    # x' is u / scale.
    scale = it.factor * (1 + it.sigma)
    time_rate = it.rate / (1 + it.sigma) ** 2
    scale_rate = -0.5 * SDE.schedule.beta(TIMES)[:, None] * scale + it.factor * it.rate
    expected = scale_rate * point + scale * time_rate * velocity
    assert_close(it.velocity(FLOW), expected, rtol=1e-9, atol=1e-9)


@SDES
def test_u_says_as_much_about_x_as_the_noise_level_says(sde):
    """The variance of x given u, for Gaussian x, is that given x + sigma e."""
    levels = sde.noise_level(TIMES)
    assert (levels.diff() > 0).all()
    for t, level in zip(TIMES.tolist(), levels.tolist(), strict=True):
        psi = STD * sde.mean(t)[:, 0]
        noise = sde.factor(t) @ sde.factor(t).mT
        explained = psi @ torch.linalg.solve(noise + torch.outer(psi, psi), psi)
        assert float(explained) == pytest.approx(STD**2 / (STD**2 + level**2), rel=1e-6)


@SDES
def test_noise_levels_are_log_normal_in_units_of_the_data_whatever_the_diffusion(sde):
    objective = ObjectiveSpec(times="lognormal", noise_mean=-0.3, noise_std=0.7, data_std=STD)
    u01 = float64([0.1, 0.25, 0.5, 0.75, 0.9])
    t, _ = noise_levels(sde, objective)(u01)
    found = (sde.noise_level(t) / STD).log()
    assert_close(found, -0.3 + 0.7 * torch.special.ndtri(u01), rtol=0, atol=2e-3)


def test_noise_levels_that_no_time_has_are_refused():
    objective = ObjectiveSpec(times="lognormal", noise_mean=20.0, noise_std=0.1)
    with pytest.raises(RecipeError, match=r"objective\.noise_mean"):
        noise_levels(SDE, objective)


@SDES
def test_the_time_of_flow_matching_is_uniform_but_for_a_share(sde):
    objective = ObjectiveSpec(times="flow", log_share=0.3)
    u01 = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    t, _ = noise_levels(sde, objective)(u01)
    first, last, levels = (sde.noise_level(at) for at in (float64([1e-5]), float64([1.0]), t))
    even = (levels / (1 + levels) - first / (1 + first)) / (last / (1 + last) - first / (1 + first))
    log_even = 1 - t.log() / torch.tensor(1e-5).log()
    assert_close(0.7 * even + 0.3 * log_even, u01, rtol=0, atol=2e-3)


@SDES
def test_the_loss_in_units_of_the_output_has_unit_variance_for_gaussian_data(sde):
    """Of a network that returns 0, per scored half: the sum over unit vectors (x / std, noise)."""
    objective = ObjectiveSpec(precondition="data", weighting="edm", data_std=STD)
    matching = ScoreMatching(sde, objective)

    class Silent(torch.nn.Module):
        def forward(self, u, _):
            return torch.zeros_like(sde.scored(u))

    units = torch.eye(1 + sde.n, dtype=torch.float64)
    for t in TIMES.tolist():
        draws = Draws(torch.full((1 + sde.n,), t, dtype=torch.float64), units[:, 1:], None)
        losses = matching.losses(Score(sde, objective, Silent()), STD * units[:, :1], draws)
        assert float(losses.weighted.sum()) == pytest.approx(sde.m, rel=1e-6)


@SDES
def test_grids_of_noise_levels_are_those_of_edm_and_flow_matching(sde):
    steps = torch.arange(9, dtype=torch.float64) / 8
    last, first = sde.noise_level(float64([1e-3, 1.0]))
    levels = sde.noise_level(float64(sde.schedule.grid("noise", 8, 1e-3, power=7)))
    of_edm = (first ** (1 / 7) + steps * (last ** (1 / 7) - first ** (1 / 7))) ** 7
    assert_close(levels, of_edm, rtol=1e-9, atol=0)
    levels = sde.noise_level(float64(sde.schedule.grid("flow", 8, 1e-3)))
    ends = first / (1 + first), last / (1 + last)
    assert_close(levels / (1 + levels), ends[0] + steps * (ends[1] - ends[0]), rtol=1e-9, atol=0)
