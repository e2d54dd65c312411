import pytest
import torch

from cld_core.analytic import diamond, gaussian
from cld_core.sde import CLD, VPSDE
from cld_core.sde.estimate import estimate, posterior_mean
from tests.support.numeric import BothScored, ThirdOrder

SDES = pytest.mark.parametrize(
    "sde", [CLD(numerical_eps=0.0), VPSDE(), BothScored(), ThirdOrder()], ids=["cld", "vpsde", "n=2, m=2", "n=3, m=1"]
)


def states(sde, law, t, n=50):
    """Draws of u at t."""
    generator = torch.Generator().manual_seed(0)
    x = law.sample(n, generator).double()
    e = torch.randn(n, sde.n, law.dimension, generator=generator, dtype=torch.float64)
    psi = sde.mean(t)[:, 0]
    return (psi[:, None] * x[:, None] + torch.einsum("ij,bjd->bid", sde.factor(t), e)).flatten(1)


def by_bayes(sde, law, u, t):
    """E[x_0 | u] of a mixture, component by component, from the kernel of all halves."""
    psi = sde.mean(t)[:, 0]
    c = torch.linalg.solve(sde.factor(t) @ sde.factor(t).T, psi)
    informed = torch.einsum("i,bid->bd", c, u.unflatten(1, (sde.n, -1)))
    each = (law.means / law.std**2 + informed[:, None]) / (law.std**-2 + psi @ c)
    responsibility = torch.softmax(law.score(sde)._log_joint(u, t)[0], dim=1)
    return (responsibility[:, :, None] * each).sum(1)


@SDES
@pytest.mark.parametrize("law", [gaussian(), diamond()], ids=["gaussian", "diamond"])
def test_the_scored_halves_alone_give_the_posterior_mean(sde, law):
    for t in (1e-3, 0.05, 0.4, 1.0):
        u = states(sde, law, t)
        ours = posterior_mean(sde, u, law.score(sde)(u, t), t)
        torch.testing.assert_close(ours, by_bayes(sde, law, u, t), rtol=0, atol=1e-9)
        times = torch.full((len(u),), t, dtype=torch.float64)
        torch.testing.assert_close(posterior_mean(sde, u, law.score(sde)(u, times), times), ours, rtol=0, atol=1e-9)


@SDES
def test_its_derivative_is_the_covariance_times_the_pull(sde):
    law, t = gaussian(0.5), 0.2
    u = states(sde, law, t, 1).requires_grad_()
    x = posterior_mean(sde, u, law.score(sde)(u, t), t)
    scored = sde.scored(torch.autograd.grad(x[0, 0], u)[0])[0].view(sde.m, 2)
    found = estimate(sde, t, data_std=0.5)
    expected = found.pull * found.variance
    torch.testing.assert_close(scored, torch.stack([expected, torch.zeros_like(expected)], dim=1))


def test_an_allowed_error_of_the_score_bounds_what_it_does():
    """At t = 1 the score's error is multiplied by 1 / q_v = 372; weighed against the prior, by 0.13 at most."""
    sde = CLD(numerical_eps=0.0)
    ell = sde.target(1.0)[0][0]
    assert float((estimate(sde, 1.0).of_score[0] * ell).abs()) == pytest.approx(372.6, rel=1e-3)
    assert float((estimate(sde, 1.0, score_error=0.05).of_score[0] * ell).abs()) < 1.1
