import itertools
import math
from unittest.mock import Mock

import pytest
import torch
from scipy.integrate import solve_ivp
from torch.testing import assert_close

from cld_core.analytic import gaussian
from cld_core.config.eval import ElboSpec
from cld_core.likelihood import density_field, likelihood, log_density
from cld_core.sde import CLD, HOLD, PSLD, VPSDE
from tests.support import parity
from tests.support.numeric import float64, noise_of, seeded

SDES = {"cld": CLD(), "cld_rising": CLD(beta0=0.1, beta1=6.9), "vpsde": VPSDE()}


def published_field(toy):
    """Ours, and what a probe of all halves sees beyond that of the scored ones: terms whose means
    are zero."""
    sde, score, probe = toy.sde, toy.score(), toy.data["like/eps"].float()
    ours = density_field(score, sde, probe.shape[1:], torch.float32, sde.scored(probe)[:, None])

    def field(t, y, rows):
        out, e = ours(t, y, rows), probe[rows]
        if sde.n == 2:
            with torch.enable_grad():
                u = y[:, :-1].float().requires_grad_()
                (row,) = torch.autograd.grad(score(u, t), u, sde.scored(e))
            (e_x, e_v), beta = sde.halves(e), sde.schedule.beta(t)
            coupled = (sde.A[0][1] + sde.A[1][0]) * (e_x * e_v).sum(1)
            scored = 0.5 * sde.D[0] * (row[:, :2] * e_x).sum(1)
            out[:, -1] += beta * (coupled - scored)
        return out

    return field


@pytest.mark.parametrize("name", parity.TOYS)
def test_field_agrees_with_the_published_one_solved_as_they_did(name):
    """scipy with one error norm over the batch, on our field, gives the published numbers: the
    field is the same."""
    toy = parity.load(name)
    u, field = toy.data["x"], published_field(toy)
    u = torch.cat([u, toy.data["like/v0"]], dim=1) if toy.sde.n == 2 else u
    rows = torch.arange(len(u))

    def flat(t, y):
        # Their state is u of all samples, followed by all log-densities.
        state = torch.from_numpy(y)
        columns = torch.cat([state[: u.numel()].view_as(u), state[u.numel() :, None]], dim=1)
        slope = field(torch.full((len(u),), t, dtype=torch.float64), columns, rows)
        return torch.cat([slope[:, :-1].flatten(), slope[:, -1]]).numpy()

    y0 = torch.cat([u.flatten(), torch.zeros(len(u))]).double().numpy()
    end = solve_ivp(flat, (1e-5, 1.0), y0, method="RK45", rtol=1e-5, atol=1e-5)
    # On another processor, float32 rounding may change a step, and it is amplified by the rough
    # resnet.
    published_nfe, rough = int(toy.data["like/nfe"]), name.startswith("resnet")
    assert end.nfev == pytest.approx(published_nfe, abs=18 if rough else 6)
    state = torch.from_numpy(end.y[:, -1])
    u_end = state[: u.numel()].view_as(u)
    tolerance = 2e-3 if rough or end.nfev != published_nfe else 1e-4
    assert_close(u_end, toy.data["like/u_T"], rtol=tolerance, atol=tolerance)
    nll = -(toy.sde.prior_logp(u_end) + state[u.numel() :])
    assert_close(nll, toy.data["like/nll_joint"], rtol=tolerance, atol=tolerance)


# With a beta that makes the prior the law at t = 1.
LINEAR = [PSLD(beta0=12.0), PSLD(beta0=12.0, friction=0.25, nu=4.25, triangle="upper"), HOLD()]


@pytest.mark.parametrize(
    ("sde", "eps"),
    [*itertools.product(SDES.values(), (1e-5, 1e-3)), *((sde, 1e-8) for sde in LINEAR)],
    ids=str,
)
def test_bound_hits_the_closed_form_on_gaussian_data(sde, eps):
    law = gaussian(0.5)
    signs = torch.cartesian_prod(*[float64([-1.0, 1.0])] * (2 * sde.n))
    x = 0.5 * signs[:, :2]
    # Two-point Gauss-Hermite rule in every coordinate: exact expectations of quadratic functions.
    draw = Mock(return_value=signs[:, 2:])
    noise = Mock(normal=draw, rademacher=draw)
    spec = ElboSpec(rtol=1e-7, atol=1e-7, eps=eps)
    result = likelihood(law.score(sde), sde, spec, noise, x, exact_trace=True)
    # All is quadratic in (x, v), so the mean over the signs is the expectation: minus the entropy
    # of the data.
    assert float(result.elbo.mean()) == pytest.approx(
        -law.entropy(), abs=2e-5 if eps == 1e-3 else 1e-5
    )
    assert float(result.paper_elbo.mean()) == pytest.approx(
        -law.entropy(), abs=2e-5 if eps == 1e-3 else 1e-5
    )
    if eps < 1e-3:  # for each example, up to the prior's distance from the law at t = 1
        assert_close(result.elbo, law.log_density(x), rtol=0, atol=2e-4 if eps == 1e-5 else 1e-5)


def test_importance_bound_is_never_below_the_mean_bound():
    toy = parity.load("mlp_cld_mixed")
    spec = ElboSpec(velocities=4)
    result = likelihood(
        toy.score(),
        toy.sde,
        spec,
        noise_of(16, seed=3),
        toy.data["x"],
        exact_trace=True,
    )
    assert (result.importance_bound >= result.elbo - 1e-9).all()
    assert float((result.importance_bound - result.elbo).max()) > 1e-3
    expected = torch.logsumexp(result.log_joint - result.log_q, 1) - math.log(4)
    assert_close(result.importance_bound, expected)


def test_probes_of_two_scored_halves_average_to_the_exact_trace_with_little_variance():
    """With the weights of PSLD's halves on one side of the Jacobian, the deviation would be 1.14
    nats."""
    sde, law, generator = PSLD(), gaussian(0.5), seeded()
    start = torch.randn(64, 4, generator=generator, dtype=torch.float64)
    u = torch.cat([0.5 * start[:, :2], sde.initial_std[0] * start[:, 2:]], dim=1)
    signs = torch.cartesian_prod(*[float64([-1.0, 1.0])] * 4)

    def found(probes):
        return log_density(law.score(sde), sde, u, probes, rtol=1e-4, atol=1e-4)[0]

    exact = found(None)
    assert_close(found(signs.expand(64, 16, 4)), exact, rtol=0, atol=1e-8)
    one = found(signs[torch.randint(16, (64, 1), generator=generator)])
    assert float((one - exact).square().mean().sqrt()) == pytest.approx(0.22, abs=0.05)


def test_normal_probes_see_only_what_differs_from_a_multiple_of_the_identity():
    """On a sphere they have the variance 2 d/(d + 2) (|J|^2 - tr(J)^2/d); without, it is 2
    |J|^2."""
    sde, n = CLD(), 2000
    rates = float64([100.0, 101.0, 102.0])
    x, spec = torch.zeros(n, 3).double(), ElboSpec(probe="gaussian", eps=0.99, rtol=1e-8, atol=1e-8)

    def bounds(exact):
        noise = noise_of(n)
        return likelihood(
            lambda u, t: -rates * sde.scored(u), sde, spec, noise, x, exact_trace=exact
        ).elbo

    found = bounds(False) - bounds(True)
    wanted = 0.5 * sde.D[0] * sde.schedule.between(0.99, 1.0) * math.sqrt(2 * 3 / 5 * 2)
    assert float(found.std()) == pytest.approx(wanted, rel=0.05)
    assert abs(float(found.mean())) < 4 * wanted / math.sqrt(n)


def test_summary_numbers():
    law, sde = gaussian(0.5), CLD()
    x = law.sample(64, seeded(1)).double()
    result = likelihood(law.score(sde), sde, ElboSpec(), noise_of(64), x, exact_trace=True)
    assert result.mean == pytest.approx(float(law.log_density(x).mean()), abs=1e-3)
    assert result.standard_error == pytest.approx(float(law.log_density(x).std()) / 8, rel=0.01)
    assert 100 < result.nfe < 250
    one = likelihood(law.score(sde), sde, ElboSpec(), noise_of(1), x[:1], exact_trace=True)
    assert math.isnan(one.standard_error)
