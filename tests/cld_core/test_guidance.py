"""Conditional and guided scores, exact ones: what samplers make of them, and what they cost."""

import pytest
import torch
from torch.testing import assert_close

from cld_core.analytic import diamond
from cld_core.config.eval import ElboSpec
from cld_core.config.sampling import ExponentialSpec
from cld_core.likelihood import likelihood
from cld_core.samplers import counted, grid_of, sample
from cld_core.score import Conditional, Guided, labelled
from cld_core.sde import CLD, VPSDE
from cld_core.seeds import SampleNoise, generator
from tests.support.affine import spec_of

LAW, CLASSES = diamond(), torch.arange(9)
NONE = 9
SDES = {"cld": CLD(), "vpsde": VPSDE()}


def exact(sde):
    return LAW.score(sde, CLASSES)


def noise(n, purpose="sample"):
    return SampleNoise(0, purpose, first=0, last=n)


def drawn(score, sde, spec, n):
    return sample(score, sde, spec, noise(n), (2,))


def state(n=6, seed=0):
    return torch.randn(n, 4, generator=generator(seed, "state"), dtype=torch.float64)


def test_the_exact_conditional_score_is_that_of_the_component():
    score, u, label = exact(CLD()), state(), torch.tensor([0, 1, 2, 3, 4, NONE])
    given = score(u, 0.3, label)
    for row, number in enumerate(label.tolist()):
        law = LAW if number == NONE else type(LAW)(LAW.means[number : number + 1], LAW.std)
        assert_close(given[row], law.score(CLD())(u, 0.3)[row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("w", [0.0, 0.5, 1.5, 4.0])
def test_a_guided_score_is_the_formula_and_outside_its_interval_the_conditional_score(w):
    score, u, label = exact(CLD()), state(), torch.arange(6)
    guided = Guided(
        score, label, NONE, ExponentialSpec(guidance=w, guidance_from=0.1, guidance_to=0.5)
    )
    t = torch.tensor([0.05, 0.1, 0.3, 0.5, 0.6, 1.0], dtype=torch.float64)
    given, free = score(u, t, label), score(u, t)
    expected = torch.where(((t >= 0.1) & (t <= 0.5))[:, None], free + w * (given - free), given)
    assert_close(guided(u, t), expected, rtol=1e-12, atol=1e-12)
    for row, time in enumerate(t.tolist()):
        assert_close(guided(u, time)[row], expected[row], rtol=1e-12, atol=1e-12)
    # Three rows at their own times; all rows at each of the three times within.
    once = 0 if w == 0 else 1
    assert guided.extra.tolist() == [3 * once + once * inside for inside in (0, 1, 1, 1, 0, 0)]


def test_every_evaluation_of_the_network_counts():
    sde, label = CLD(), torch.arange(9)
    spec = ExponentialSpec(nfe=20, guidance=2.0)
    score = labelled(exact(sde), spec, label, NONE)
    assert counted(drawn(score, sde, spec, 9), score).nfe_each.tolist() == [40] * 9
    part = ExponentialSpec(nfe=20, guidance=2.0, guidance_from=0.2, guidance_to=0.9)
    score = labelled(exact(sde), part, label, NONE)
    inside = sum(0.2 <= t <= 0.9 for t in grid_of(part, sde.schedule))
    assert counted(drawn(score, sde, part, 9), score).nfe_each.tolist() == [20 + inside] * 9
    assert 0 < inside < 20


def test_a_sample_of_the_adaptive_flow_keeps_its_label_when_others_have_arrived():
    """Rows leave the solver's batch; each of the others stays with its own label and its own
    steps."""
    sde, label = CLD(), torch.arange(64) % 9
    spec = spec_of("ode", rtol=1e-4, atol=1e-4, guidance=1.5)
    whole = drawn(Guided(exact(sde), label, NONE, spec), sde, spec, 64)
    own = SampleNoise(0, "sample", first=40, last=50)
    few = sample(Guided(exact(sde), label[40:50], NONE, spec), sde, spec, own, (2,))
    assert_close(few.x, whole.x[40:50], rtol=1e-4, atol=1e-4)
    assert torch.equal(torch.cdist(whole.x.double(), LAW.means).argmin(1), label)


@pytest.mark.parametrize("name", SDES)
def test_the_likelihood_given_a_label_is_the_conditional_density(name):
    sde, n = SDES[name], 18
    label = torch.arange(n) % 9
    x = LAW.means[label] + LAW.std * torch.randn(n, 2, generator=generator(5), dtype=torch.float64)
    truth = torch.distributions.Normal(LAW.means[label], LAW.std).log_prob(x).sum(1)
    spec = ElboSpec(velocities=2, eps=1e-6, rtol=1e-5, atol=1e-5)
    result = likelihood(
        Conditional(exact(sde), label), sde, spec, noise(n, "elbo"), x, exact_trace=True
    )
    # VPSDE is exact except for the prior, which the mode's law at t = 1 is not quite; the bound of
    # CLD varies.
    assert float((result.elbo - truth).abs().max()) < (0.01 if sde.n == 1 else 0.05)
    assert float((result.elbo - truth).mean()) == pytest.approx(
        0.0, abs=2e-3 if sde.n == 1 else 0.02
    )
    free = likelihood(exact(sde), sde, spec, noise(n, "elbo"), x, exact_trace=True)
    # One of nine classes: the density without the label is a ninth.
    assert float((result.elbo - free.elbo).mean()) == pytest.approx(
        torch.tensor(9.0).log().item(), abs=5e-3
    )
