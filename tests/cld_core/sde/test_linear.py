"""The kernel by series and doubling, against 200 decimal digits; what is written for n halves, the
last m scored."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cld_core.analytic import GaussianMixture
from cld_core.sde import CLD, HOLD, PSLD, VPSDE, Diffusion
from cld_core.sde.matrices import apply
from tests.cld_core.sde.test_new_diffusion import Langevin
from tests.support import exact
from tests.support.affine import convergence, flow_covariance, output_covariance, spec_of
from tests.support.numeric import MIXTURE, BothScored, ThirdOrder, drift, float64, standard_normal

TIMES = (1e-12, 1e-7, 1e-3, 0.2, 1.0)


@dataclass(frozen=True, kw_only=True)
class Chain(Diffusion):
    """n = 4, m = 1: noise in the last half drives the third, which drives the second, which drives
    x."""

    n = 4
    m = 1
    beta0: float = 4.0
    beta1: float = 0.0
    A = ((0.0, 1.0, 0.0, 0.0), (-1.0, 0.0, 2.0, 0.0), (0.0, -2.0, 0.0, 3.0), (0.0, 0.0, -3.0, -6.0))
    D = (12.0,)
    prior_std = (1.0, 1.0, 1.0, 1.0)
    initial_std = (0.5, 0.3, 0.2)


SDES = {
    "psld": PSLD(numerical_eps=1e-9),
    "psld upper, rising": PSLD(
        beta0=0.2, beta1=13.8, friction=0.25, nu=4.25, triangle="upper", numerical_eps=0.0
    ),
    # 4 friction nu > (friction - nu)^2; constants with few binary digits, so that they meet the
    # stationary equation.
    "psld, friction 0": PSLD(friction=0.0, nu=4.0, triangle="upper"),
    "psld, friction 1": PSLD(friction=1.0, nu=5.0, numerical_eps=0.0),
    "psld upper, friction 2": PSLD(friction=2.0, nu=6.0, triangle="upper", numerical_eps=0.0),
    "hold": HOLD(),
    "hold, unit mass": HOLD(beta0=0.1, beta1=13.0, m_inv=1.0, kappa=0.5, numerical_eps=0.0),
    "chain": Chain(),
    "cld by series": Langevin(beta0=4.0, beta1=0.0),
    "cld": CLD(numerical_eps=1e-9),
    "cld, rising": CLD(beta0=0.1, beta1=6.9),
    "vpsde": VPSDE(),
}
EACH = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)


@EACH
def test_every_entry_is_right_to_1e12_at_every_time(sde):
    first = sde.n - sde.m
    for t in TIMES:
        psi, _ = exact.moments(sde, sde.A, sde.schedule.integral(t))
        assert max(exact.errors(sde.mean(t).tolist(), psi)) < 1e-12
        for objective in ("hsm", "dsm"):
            others = sde.initial_std if objective == "hsm" else (0.0,) * (sde.n - 1)
            covariance = exact.covariance(sde, t, (0.0, *others), sde.numerical_eps)
            factor = exact.lower_factor(covariance, sde.order)
            assert max(exact.errors(sde.factor(t, objective).tolist(), factor)) < 1e-12, (
                t,
                objective,
            )
            target = exact.inverse(factor).T[first:, first:]
            assert max(exact.errors(sde.target(t, objective).tolist(), target)) < 1e-12, (
                t,
                objective,
            )


@EACH
@pytest.mark.parametrize("t", [*TIMES, 1e-9, 1e-5, 0.05, 0.5])
def test_every_entry_of_the_noise_is_right_to_1e12_of_itself(sde, t):
    """However small it is beside the others of its row."""
    _, noise = exact.moments(sde, sde.A, sde.schedule.integral(t))
    for i, row in enumerate(sde.moments(np.array([sde.schedule.integral(t)]))[1][..., 0]):
        for j, entry in enumerate(row):
            assert abs(float(entry / noise[i, j] - 1)) < 1e-12, (i, j)


@EACH
@pytest.mark.parametrize("data_var", [0.0, 0.25])
def test_the_law_is_as_exact(sde, data_var):
    for t in TIMES:
        lower = exact.lower_factor(exact.covariance(sde, t, (data_var**0.5, *sde.initial_std)))
        assert max(exact.errors(sde.law(t, data_std=data_var**0.5).tolist(), lower)) < 1e-12, t
        full = exact.covariance(sde, t, (0.0, *sde.initial_std))[1:, 1:]
        if sde.n > 1:
            _, factor = sde.auxiliary(t)
            assert max(exact.errors(factor.tolist(), exact.lower_factor(full))) < 1e-12


@EACH
@pytest.mark.parametrize("big_d", [1e-12, 1e-8, 1e-3, 0.1, 2.0])
def test_the_reverse_process_is_as_exact(sde, big_d):
    variances = [std * std for std in sde.prior_std]
    back = tuple(
        tuple(sde.A[j][i] * variances[i] / variances[j] for j in range(sde.n)) for i in range(sde.n)
    )
    mean, noise = exact.moments(sde, back, big_d)
    ours = sde.reverse(big_d)
    assert max(exact.errors(ours[0].tolist(), mean)) < 1e-12
    assert max(exact.errors(ours[1].tolist(), exact.lower_factor(noise))) < 1e-12


@EACH
def test_the_prior_is_the_stationary_law_of_the_matrices(sde):
    a = float64(sde.A)
    prior = torch.diag(float64(sde.prior_std).square())
    noise = torch.diag(float64([0.0] * (sde.n - sde.m) + list(sde.D)))
    assert_close(a @ prior + prior @ a.T, -noise, rtol=1e-8, atol=1e-10)


@EACH
def test_a_time_gives_the_same_alone_and_among_others_and_with_torch(sde):
    times = torch.logspace(-9, 0, 50, dtype=torch.float64).view(5, 10)
    for name in ("mean", "factor", "target", "known_precision"):
        whole, by_torch = (getattr(sde, name)(t) for t in (times, times.clone().requires_grad_()))
        alone = getattr(sde, name)(float(times[2, 3]))
        assert_close(whole[2, 3], alone, rtol=1e-14, atol=0)
        # The exponentials of numpy and torch differ in the last bit.
        assert_close(whole, by_torch.detach(), rtol=1e-12, atol=1e-15)


def test_hold_has_a_triple_eigenvalue():
    for m_inv in (1.0, 4.0):
        a = np.array(HOLD(m_inv=m_inv).A)
        shifted = a + np.sqrt(3 * m_inv) * np.eye(3)
        np.testing.assert_allclose(np.linalg.matrix_power(shifted, 3), 0.0, atol=1e-12 * m_inv**3)
        assert np.linalg.matrix_rank(shifted, tol=1e-9) == 2, (
            "one eigenvector, as critical damping has"
        )


def test_hold_reaches_its_prior():
    """The default beta: what is left of data at t = 1 is less than with CLD's recipe."""
    left = [abs(sde.mean(1.0)[0][0]) for sde in (HOLD(), CLD(), PSLD(), VPSDE())]
    assert left[0] == pytest.approx(7.57e-5, rel=1e-3)
    assert left[0] < left[1]


def test_a_mixture_has_its_density_at_every_time():
    """The score of all halves of HOLD at the earliest times: nothing cancels."""
    law = GaussianMixture(torch.tensor([[-0.4], [0.7]]), 0.3)
    score = law.score(HOLD())
    u = float64([[0.1, 0.02, -0.03], [0.6, -0.1, 0.05]])
    slopes = [score(u, t) for t in (1e-12, 1e-11)]
    assert_close(slopes[0], -u[:, 2:] / (0.04 * 0.25), rtol=1e-6, atol=0)
    assert_close(*slopes, rtol=1e-6, atol=0)


def test_data_of_the_variance_that_k_assumes_are_sampled_exactly():
    sde = PSLD(friction=0.25, nu=4.25, numerical_eps=0.0)
    coarse, fine = (
        output_covariance(sde, spec_of("exponential", nfe=n, eps=0.1, denoise=False), 0.5)
        for n in (5, 20)
    )
    assert_close(coarse, fine, rtol=0, atol=1e-12)


WITHOUT_EPS = {"numerical_eps": 0.0}
FORWARD = [
    *(
        CLD(**WITHOUT_EPS),
        CLD(beta0=0.1, beta1=10.0, **WITHOUT_EPS),
        PSLD(**WITHOUT_EPS),
        HOLD(**WITHOUT_EPS),
    ),
    *(VPSDE(), BothScored(), ThirdOrder()),
]


@pytest.mark.parametrize("sde", FORWARD, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize(("start", "end"), [(0.3, 0.7), (0.3, 0.301), (1e-3, 1.0)])
def test_two_steps_are_the_kernel_of_one(sde, start, end):
    """Of a mean map and a covariance with columns of the identity as states and as noise."""
    n = sde.n
    rows = torch.cat([torch.zeros(1, n), torch.eye(n)]).double()
    none = torch.zeros_like(rows)
    step = sde.forward(rows, none, start, end)[1:].T
    factor = sde.forward(none, rows, start, end)[1:].T
    before, after = (sde.factor(t) for t in (start, end))
    assert_close(step @ sde.mean(start), sde.mean(end), rtol=1e-10, atol=1e-12)
    covariance = step @ before @ before.T @ step.T + factor @ factor.T
    assert_close(covariance, after @ after.T, rtol=1e-9, atol=1e-12)


# Of normal data. For 0.5, K is exact if x is scored, and nothing is left to interpolate.
STD = {BothScored(): 0.8, ThirdOrder(): 0.5}
SHAPES = pytest.mark.parametrize("sde", STD, ids=["n=2, m=2", "n=3, m=1"])
ALL = pytest.mark.parametrize(
    "sde", [CLD(beta0=0.1, beta1=6.9), VPSDE(), *STD], ids=["cld", "vpsde", "2, 2", "3, 1"]
)


@ALL
def test_the_score_is_the_derivative_of_the_log_density(sde):
    score = MIXTURE.score(sde)
    for t in (0.01, 0.3, 1.0):
        leaf = standard_normal(5, sde.n * MIXTURE.dimension).requires_grad_()
        (gradient,) = torch.autograd.grad(score.log_density(leaf, t).sum(), leaf)
        assert_close(score(leaf.detach(), t), sde.scored(gradient), rtol=1e-8, atol=1e-8)


@SHAPES
def test_the_generic_tensors_agree_with_each_other(sde):
    u, s = standard_normal(4, 2 * sde.n), standard_normal(4, 2 * sde.m, seed=1)
    pull = torch.zeros_like(u)
    sde.scored(pull).copy_(apply(torch.diag(sde.diffusion2(0.3)), s))
    assert_close(sde.flow(u, s, 0.3), drift(sde, u, 0.3) - 0.5 * pull)
    assert_close(sde.euler_step(u, s, 0.3, 0.1), u - 0.1 * (drift(sde, u, 0.3) - pull))
    normal = torch.distributions.Normal(
        0.0, torch.tensor(sde.prior_std).repeat_interleave(2).double()
    )
    assert_close(sde.prior_logp(u), normal.log_prob(u).sum(1))
    assert_close(sde.prior(u), u * normal.scale)


@pytest.fixture(scope="module")
def ends():
    """Covariances to which the probability flow carries the prior."""
    return {sde: flow_covariance(sde, eps=0.1, std=std) for sde, std in STD.items()}


@SHAPES
def test_the_flow_ends_in_the_exact_law(sde, ends):
    law = sde.law(0.1, data_std=STD[sde])
    # The prior is not quite the law at t = 1.
    assert_close(ends[sde], law @ law.T, rtol=0, atol=3e-3)


@SHAPES
@pytest.mark.parametrize(
    ("keys", "order"),
    [
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
    found, falls = convergence(
        sde, [spec_of(**keys, nfe=n, eps=0.1, denoise=False) for n in numbers], STD[sde]
    )
    assert falls == pytest.approx([order], abs=0.35)
    # The reverse SDE forgets how far the prior is from the law at t = 1; the flow does not.
    assert float((found[-1] - ends[sde]).abs().max()) < (0.15 if order == 1.0 else 1e-3)
