"""Bounds of the likelihood, the solver that they need, and the laws that they are held against."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from cld_core.analytic import GaussianMixture, gaussian
from cld_core.config.eval import ElboSpec
from cld_core.errors import SolverError
from cld_core.likelihood import density_field, likelihood, log_density
from cld_core.sde import CLD, PSLD, VPSDE
from cld_core.seeds import SampleNoise
from cld_core.solver import solve
from tests.support import parity
from tests.support.waits import Waits

SDES = {"cld": CLD(), "cld_rising": CLD(beta0=0.1, beta1=6.9), "vpsde": VPSDE()}


def start_of(toy):
    x = toy.data["x"]
    return torch.cat([x, toy.data["like/v0"]], dim=1) if toy.sde.n == 2 else x


def published_field(toy, dtype=torch.float32):
    """Ours, and what a probe of all halves sees beyond that of the scored ones: terms whose means are zero."""
    sde, score, probe = toy.sde, toy.score(), toy.data["like/eps"].to(dtype)
    ours = density_field(score, sde, probe.shape[1:], dtype, sde.scored(probe)[:, None])

    def field(t, y, rows):
        out, e = ours(t, y, rows), probe[rows]
        if sde.n == 2:
            with torch.enable_grad():
                u = y[:, :-1].to(dtype).requires_grad_()
                (row,) = torch.autograd.grad(score(u, t), u, sde.scored(e))
            (e_x, e_v), beta = sde.halves(e), sde.schedule.beta(t)
            across = (sde.A[0][1] + sde.A[1][0]) * (e_x * e_v).sum(1) - 0.5 * sde.D[0] * (row[:, :2] * e_x).sum(1)
            out[:, -1] += beta * across
        return out

    return field


@pytest.mark.parametrize("name", parity.TOYS)
def test_field_agrees_with_the_published_one_solved_as_they_did(name):
    """scipy with one error norm over the batch, on our field, gives the published numbers: the field is the same."""
    toy = parity.load(name)
    u, field = start_of(toy), published_field(toy)
    rows = torch.arange(len(u))

    def flat(t, y):
        # Their state is u of all samples, followed by all log-densities.
        state = torch.from_numpy(y)
        columns = torch.cat([state[: u.numel()].view_as(u), state[u.numel() :, None]], dim=1)
        slope = field(torch.full((len(u),), t, dtype=torch.float64), columns, rows)
        return torch.cat([slope[:, :-1].flatten(), slope[:, -1]]).numpy()

    y0 = torch.cat([u.flatten(), torch.zeros(len(u))]).double().numpy()
    end = solve_ivp(flat, (1e-5, 1.0), y0, method="RK45", rtol=1e-5, atol=1e-5)
    # On another processor, float32 rounding may change a step, and it is amplified by the rough resnet.
    published_nfe, rough = int(toy.data["like/nfe"]), name.startswith("resnet")
    assert end.nfev == pytest.approx(published_nfe, abs=18 if rough else 6)
    state = torch.from_numpy(end.y[:, -1])
    u_end = state[: u.numel()].view_as(u)
    tolerance = 2e-3 if rough or end.nfev != published_nfe else 1e-4
    torch.testing.assert_close(u_end, toy.data["like/u_T"], rtol=tolerance, atol=tolerance)
    nll = -(toy.sde.prior_logp(u_end) + state[u.numel() :])
    torch.testing.assert_close(nll, toy.data["like/nll_joint"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", parity.TOYS)
def test_steps_of_its_own_for_each_row_are_as_accurate_as_the_published_ones(name):
    toy = parity.load(name)
    start = torch.nn.functional.pad(start_of(toy), (0, 1))

    def solved(tolerance, dtype):
        found = solve(published_field(toy, dtype), start, 1e-5, 1.0, rtol=tolerance, atol=tolerance)
        u_end = found.y[:, :-1]
        return -toy.sde.prior_logp(u_end) - found.y[:, -1], u_end, found.nfe

    nll, u_end, nfe = solved(1e-5, torch.float32)
    published = toy.data["like/nll_joint"]
    toy.net.double()
    exact, _, _ = solved(1e-7, torch.float64)
    # RK45 at 1e-5 leaves errors of its own, with either step control: 8 nats of 488 in one row of an untrained network.
    # Ours must be as near to the exact value as theirs, up to a factor. Which steps are taken depends on the last bits
    # of float32, so a row in which theirs happens to be small is compared with their typical error.
    ours, theirs = (nll - exact).abs(), (published - exact).abs()
    assert (ours <= 3.0 * (theirs + theirs.median())).all(), (ours, theirs)
    if name.startswith("mlp_cld"):
        torch.testing.assert_close(nll, published, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(u_end, toy.data["like/u_T"], rtol=0, atol=1e-3)
        assert float(nfe.double().mean()) == pytest.approx(int(toy.data["like/nfe"]), rel=0.1)


class SignNoise:
    """Two-point Gauss-Hermite rule in every coordinate: exact expectations of quadratic functions."""

    def __init__(self, signs):
        self.signs = signs

    def normal(self, shape):
        return self.signs

    rademacher = normal


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
@pytest.mark.parametrize("name", SDES)
def test_bound_hits_the_closed_form_on_gaussian_data(name, eps):
    sde, law = SDES[name], gaussian(0.5)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)
    x, noise = 0.5 * signs[:, :2], SignNoise(signs[:, 2:])
    spec = ElboSpec(rtol=1e-7, atol=1e-7, eps=eps)
    result = likelihood(law.score(sde), sde, spec, noise, x, exact_trace=True)
    # All is quadratic in (x, v), so the mean over the signs is the expectation: minus the entropy of the data.
    assert float(result.elbo.mean()) == pytest.approx(-law.entropy(), abs=1e-5 if eps == 1e-5 else 2e-5)
    assert float(result.paper_elbo.mean()) == pytest.approx(-law.entropy(), abs=1e-5 if eps == 1e-5 else 2e-5)
    if eps == 1e-5:  # for each example, up to the prior's distance from the law at t = 1
        torch.testing.assert_close(result.elbo, law.log_density(x), rtol=0, atol=2e-4)


def test_importance_bound_is_never_below_the_mean_bound():
    toy = parity.load("mlp_cld_mixed")
    spec = ElboSpec(velocities=4)
    result = likelihood(toy.score(), toy.sde, spec, SampleNoise(3, first=0, last=16), toy.data["x"], exact_trace=True)
    assert (result.importance_bound >= result.elbo - 1e-9).all()
    assert float((result.importance_bound - result.elbo).max()) > 1e-3
    expected = torch.logsumexp(result.log_joint - result.log_q, 1) - math.log(4)
    torch.testing.assert_close(result.importance_bound, expected)


def test_probes_average_to_the_exact_trace():
    toy = parity.load("mlp_cld_mixed")
    u = torch.cat([toy.data["x"], toy.data["like/v0"]], dim=1)[:4]
    toy.net.double()  # so that the field is the same to the last digits, and with it the steps
    u = u.double()
    exact = log_density(toy.score(), toy.sde, u, None, rtol=1e-4, atol=1e-4)[0]
    # In two dimensions the four Rademacher probes are all there are.
    probes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 2).expand(4, 4, 2)
    hutchinson = log_density(toy.score(), toy.sde, u, probes, rtol=1e-4, atol=1e-4)[0]
    torch.testing.assert_close(hutchinson, exact, rtol=0, atol=1e-8)


def test_probes_of_two_scored_halves_average_to_the_exact_trace_with_little_variance():
    """With the weights of PSLD's halves on one side of the Jacobian, the deviation would be 1.14 nats."""
    sde, law, generator = PSLD(), gaussian(0.5), torch.Generator().manual_seed(0)
    start = torch.randn(64, 4, generator=generator, dtype=torch.float64)
    u = torch.cat([0.5 * start[:, :2], sde.initial_std[0] * start[:, 2:]], dim=1)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)

    def found(probes):
        return log_density(law.score(sde), sde, u, probes, rtol=1e-4, atol=1e-4)[0]

    exact = found(None)
    torch.testing.assert_close(found(signs.expand(64, 16, 4)), exact, rtol=0, atol=1e-8)
    one = found(signs[torch.randint(16, (64, 1), generator=generator)])
    assert float((one - exact).square().mean().sqrt()) == pytest.approx(0.22, abs=0.05)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_an_example_does_not_depend_on_its_batch(probe):
    toy = parity.load("mlp_cld")
    toy.net.double()  # matrix products of other sizes round differently; in float32 that might change a step
    x, spec = toy.data["x"].double(), ElboSpec(velocities=2, probes=2, probe=probe, rtol=1e-3, atol=1e-3)

    def run(first, last):
        return likelihood(toy.score(), toy.sde, spec, SampleNoise(1, first=first, last=last), x[first:last])

    whole = run(0, 16)
    for first, last in ((0, 5), (5, 6), (6, 16)):
        part = run(first, last)
        torch.testing.assert_close(part.elbo, whole.elbo[first:last], rtol=0, atol=1e-8)
        torch.testing.assert_close(part.log_q, whole.log_q[first:last], rtol=0, atol=0)


def test_summary_numbers():
    law, sde = gaussian(0.5), CLD()
    x = law.sample(64, torch.Generator().manual_seed(1)).double()
    result = likelihood(law.score(sde), sde, ElboSpec(), SampleNoise(0, first=0, last=64), x, exact_trace=True)
    assert result.mean == pytest.approx(float(law.log_density(x).mean()), abs=1e-3)
    assert result.standard_error == pytest.approx(float(law.log_density(x).std()) / 8, rel=0.01)
    assert 100 < result.nfe < 250
    one = likelihood(law.score(sde), sde, ElboSpec(), SampleNoise(0, first=0, last=1), x[:1], exact_trace=True)
    assert math.isnan(one.standard_error)


def pendulum(t, y, rows):
    return torch.stack([y[:, 1], -torch.sin(3.0 * y[:, 0]) - 0.2 * t * y[:, 1]], dim=1)


STARTS = torch.tensor([[0.1, 0.0], [2.0, -1.0], [0.5, 7.0], [-30.0, 11.0], [0.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("span", [(0.0, 3.0), (1.0, 1e-3)])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-9])
def test_every_row_takes_scipys_steps(span, tolerance):
    ours = solve(pendulum, STARTS, *span, rtol=tolerance, atol=tolerance)
    for i, start in enumerate(STARTS):

        def field(t, y):
            return pendulum(t, torch.from_numpy(y)[None], None)[0].numpy()

        theirs = solve_ivp(field, span, start.numpy(), method="RK45", rtol=tolerance, atol=tolerance)
        assert int(ours.nfe[i]) == theirs.nfev
        # An error estimate that happens to be nearly 0 hands the processor's rounding on to the next step's size.
        close = max(1e-9, 1e-5 * tolerance)
        np.testing.assert_allclose(ours.y[i].numpy(), theirs.y[:, -1], rtol=close, atol=1e-2 * close)


def test_a_row_does_not_depend_on_its_neighbours():
    together = solve(pendulum, STARTS, 0.0, 3.0, rtol=1e-6, atol=1e-6)
    for i in range(len(STARTS)):
        alone = solve(pendulum, STARTS[i : i + 1], 0.0, 3.0, rtol=1e-6, atol=1e-6)
        # The matrix products of other sizes may round otherwise in the last bit.
        torch.testing.assert_close(together.y[i], alone.y[0], rtol=1e-13, atol=1e-14)
        assert int(together.nfe[i]) == int(alone.nfe[0])


def test_rows_that_are_done_wait_until_enough_others_are():
    """Then the batch becomes one of a few sizes, since libraries prepare for each."""
    rates, sizes = torch.linspace(1.0, 60.0, 100, dtype=torch.float64), []

    def field(t, y, rows):
        sizes.append(len(y))
        assert len(t) == len(rows) == len(y)
        return -rates[rows, None] * (y - torch.cos(rates[rows] * t)[:, None])

    together = solve(field, torch.ones(100, 1, dtype=torch.float64), 0.0, 1.0, rtol=1e-6, atol=1e-6)
    assert sizes[0] == 100
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) - {100} <= {*range(1, 17), *range(18, 33, 2), *range(36, 65, 4), *range(72, 129, 8)}
    assert sum(sizes) < 1.1 * int(together.nfe.sum())
    for i in (0, 40, 99):
        alone = solve(lambda t, y, rows, i=i: field(t, y, rows + i), torch.ones(1, 1), 0.0, 1.0, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(together.y[i], alone.y[0], rtol=1e-12, atol=0)
        assert int(together.nfe[i]) == int(alone.nfe[0])


def test_the_host_waits_for_the_device_once_per_step(monkeypatch):
    """On a GPU it would otherwise launch nothing while it waits."""
    steps = []

    def prepare(times):
        steps.append(len(waits.names))
        return times.unbind()

    with Waits() as waits:
        waits.watch_reading(monkeypatch)
        solve(pendulum, STARTS, 0.0, 3.0, rtol=1e-6, atol=1e-6, prepare=prepare)
    # The first two calls are for the first step size, which is checked before the first step.
    _, _, first, *later = [*steps, len(waits.names)]
    assert first <= 3
    assert len(later) > 10
    assert later == [first + k for k in range(1, len(later) + 1)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_field_that_is_not_finite_is_named(bad):
    def field(t, y, rows):
        return torch.where(t[:, None] > 0.5, bad, y)

    with pytest.raises(SolverError, match=r"row 0 is at t = 0\.\d+.*Raise rtol and atol"):
        solve(field, torch.ones(2, 1), 0.0, 1.0, rtol=1e-5, atol=1e-5)


def test_the_number_of_steps_is_bounded():
    with pytest.raises(SolverError, match="3 steps are not enough"):
        solve(pendulum, STARTS, 0.0, 30.0, rtol=1e-8, atol=1e-8, max_steps=3)


def points(law, sde, n=6):
    generator = torch.Generator().manual_seed(0)
    x = law.sample(n, generator).double()
    v = 0.1 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return torch.cat([x, v], dim=1) if sde.n == 2 else x


@pytest.mark.parametrize("sde", SDES.values())
def test_law_is_that_of_the_forward_process(sde):
    """Log-density at t against a plain mixture of normals with the kernel's mean and covariance."""
    law = GaussianMixture(torch.tensor([[-0.4, 0.2], [0.7, 0.1], [0.0, -1.0]]), 0.3, torch.tensor([1.0, 2.0, 3.0]))
    u = points(law, sde)
    for t in (1e-3, 0.3, 1.0):
        densities = []
        for mean, weight in zip(law.means, law.weights, strict=True):
            # With Sigma = L L^T of the kernel, the data's variance adds a term along the first column of Psi.
            bare = replace(sde, numerical_eps=0.0)
            psi, factor = bare.mean(t), bare.factor(t)
            covariance = factor @ factor.T + 0.09 * torch.outer(psi[:, 0], psi[:, 0])
            location, covariance = torch.kron(psi[:, 0], mean), torch.kron(covariance, torch.eye(2).double())
            normal = torch.distributions.MultivariateNormal(location, covariance)
            densities.append(normal.log_prob(u) + weight.log())
        expected = torch.logsumexp(torch.stack(densities), 0)
        torch.testing.assert_close(law.score(sde).log_density(u, t), expected, rtol=1e-5, atol=1e-5)


def test_entropy_by_quadrature():
    for std in (0.5, 0.04):
        assert gaussian(std).entropy() == pytest.approx(math.log(2 * math.pi * math.e * std**2), abs=1e-10)
    # Two components so close that no closed form helps: twice the nodes give the same.
    law = GaussianMixture(torch.tensor([[0.0, 0.0], [0.1, 0.05]]), 0.05)
    assert law.entropy() == pytest.approx(law.entropy(per_std=8.0), abs=1e-9)


def test_samples_have_the_moments_of_the_law():
    law = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.2, torch.tensor([1.0, 3.0]))
    x = law.sample(20_000, torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(x.mean(0), (law.weights[:, None] * law.means).sum(0), rtol=0, atol=0.03)
    assert float(law.log_density(x).mean()) == pytest.approx(-law.entropy(), abs=0.03)


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_a_mixture_given_a_linear_observation(sigma):
    """Against Bayes' rule on the exact joint density of x and y, and on a line if y is exact."""
    law = GaussianMixture(torch.tensor([[-0.4, 0.2], [0.7, 0.1], [0.0, -1.0]]), 0.3, torch.tensor([1.0, 2.0, 3.0]))
    h, y = torch.tensor([[1.0, 0.5]], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)
    given = law.given(h, y, sigma)
    axis = torch.linspace(-4, 4, 1601, dtype=torch.float64)
    if sigma:
        nodes = torch.cartesian_prod(axis[::4], axis[::4])
        joint = law.log_density(nodes) - 0.5 * ((y - nodes @ h.T) / sigma).square().sum(1)
        area = float(axis[4] - axis[0]) ** 2
    else:
        direction = torch.tensor([-0.5, 1.0], dtype=torch.float64) / math.sqrt(1.25)
        nodes = y * h[0] / 1.25 + axis[:, None] * direction
        joint, area = law.log_density(nodes), float(axis[1] - axis[0])
    expected = joint - torch.logsumexp(joint, 0) - math.log(area)
    near = expected > -20
    torch.testing.assert_close(given.log_density(nodes[near]), expected[near], rtol=0, atol=1e-6)
    x = given.sample(20_000, torch.Generator().manual_seed(0)).double()
    p = expected.exp() * area
    torch.testing.assert_close(x.mean(0), p @ nodes, rtol=0, atol=0.01)
    if not sigma:
        torch.testing.assert_close(x @ h[0], y.expand(len(x)), rtol=0, atol=1e-6)
