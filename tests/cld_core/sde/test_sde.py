from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from cld_core import sde as diffusions
from cld_core.config.sde import CldSpec, VpsdeSpec
from cld_core.sde import CLD, VPSDE
from cld_core.sde import cld_kernel as kernel
from cld_core.sde.matrices import apply
from tests.support import parity
from tests.support.numeric import check, drift

SETTINGS = {
    "cifar10": (CLD(numerical_eps=1e-9), "hsm"),
    "celebahq_post": (CLD(beta0=0.1, beta1=6.9, numerical_eps=1e-6), "hsm"),
    "dsm": (CLD(numerical_eps=1e-9), "dsm"),
}


@pytest.fixture(scope="module")
def published():
    return parity.arrays("kernel")[0]


def high_precision(sde: CLD, t: float, var_y: float) -> dict[str, float]:
    """Sigma_t by the plain closed forms in 60 decimal digits, where their cancellation does no harm; m_inv = 4."""
    getcontext().prec = 60
    t_, beta0, beta1, g, eps = (
        Decimal(z) for z in (t, sde.schedule.beta0, sde.schedule.beta1, var_y, sde.numerical_eps)
    )
    b = 2 * (beta0 * t_ + beta1 * t_ * t_ / 2)
    decay2 = (-2 * b).exp()
    xx = 1 - decay2 * ((1 + b) ** 2 + (1 - g) * b**2) + eps
    xv = (decay2 * b * ((1 + b) - (1 - g) * (1 - b))) / 2
    vv = (1 - decay2 * (b**2 + (1 - g) * (1 - b) ** 2)) / 4 + eps
    det = xx * vv - xv * xv
    return {"xx": float(xx), "xv": float(xv), "vv": float(vv), "det": float(det), "ell": float((xx / det).sqrt())}


@pytest.mark.parametrize("name", SETTINGS)
def test_covariance_is_exact_to_the_last_digits_at_every_t(published, name):
    sde, objective = SETTINGS[name]
    for t in [1e-9, 1e-7, *published["t"].tolist()]:
        ours = sde.covariance(t, objective)
        exact = high_precision(sde, t, sde.gamma if objective == "hsm" else 0.0)
        for entry in ("xx", "xv", "vv", "det", "ell"):
            assert getattr(ours, entry) == pytest.approx(exact[entry], rel=2e-12, abs=0), (t, entry)


@pytest.mark.parametrize("name", SETTINGS)
def test_kernel_agrees_with_the_published_one(published, name):
    sde, objective = SETTINGS[name]
    t, u = published["t"], published["u"]
    covariance = sde.covariance(t, objective)
    # The published var_xx is a difference of numbers near 1: right to 4e-16 absolutely, which at t = 1e-5 is
    # 1.6e-8 of it. The test above shows on which side the error is.
    for entry in ("xx", "xv", "vv"):
        torch.testing.assert_close(getattr(covariance, entry), published[f"{name}/var_{entry}"], rtol=1e-9, atol=4e-16)
    early = t < 1e-3
    for mask, rtol in ((~early, 1e-9), (early, 5e-8)):
        theirs = published[f"{name}/noise_multiplier"][mask]
        torch.testing.assert_close(-covariance.ell[mask], theirs, rtol=rtol, atol=0)

    torch.testing.assert_close(apply(sde.mean(t), u), published[f"{name}/mean"], rtol=1e-9, atol=0)
    torch.testing.assert_close(drift(sde, u, t), published[f"{name}/drift"], rtol=1e-12, atol=0)
    torch.testing.assert_close(sde.diffusion2(t)[0].sqrt(), published[f"{name}/diffusion"][:, 2], rtol=1e-12, atol=0)
    torch.testing.assert_close(0.5 * sde.diffusion2(t)[0], published[f"{name}/loss_multiplier"], rtol=1e-12, atol=0)
    prior = published[f"{name}/prior_logp_x"] + published[f"{name}/prior_logp_v"]
    torch.testing.assert_close(sde.prior_logp(u), prior, rtol=1e-9, atol=0)


def test_vpsde_agrees_with_the_published_one(published):
    # The published VPSDE never adds numerical_eps, whatever its settings say.
    sde, t, x = VPSDE(numerical_eps=0.0), published["t"], published["u"][:, :2]
    torch.testing.assert_close(sde.mean(t)[0][0][:, None] * x, published["vpsde/mean"], rtol=1e-9, atol=0)
    torch.testing.assert_close(sde.variance(t), published["vpsde/var"], rtol=1e-9, atol=0)
    torch.testing.assert_close(-sde.target(t)[0][0], published["vpsde/noise_multiplier"], rtol=1e-9, atol=0)
    torch.testing.assert_close(0.5 * sde.diffusion2(t)[0], published["vpsde/loss_multiplier"], rtol=1e-12, atol=0)
    torch.testing.assert_close(sde.prior_logp(x), published["vpsde/prior_logp_x"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("m_inv", [4.0, 1.0, 9.0])
@pytest.mark.parametrize("initial", [(0.0, 0.0), (0.0, 0.04), (0.25, 0.04)])
def test_kernel_against_the_matrix_exponential_and_the_lyapunov_equation(m_inv, initial):
    mass = 1 / m_inv
    friction = 2 * mass**0.5
    drift = np.array([[0.0, m_inv], [-1.0, -friction * m_inv]])
    noise = np.diag([0.0, 2 * friction])
    start = np.diag([initial[0], initial[1] * mass])
    # Beyond b = 4 it is Van Loan's exponential that cancels.
    for big_b in np.array([0.02, 0.5, 1.5, 4.0]) / m_inv**0.5:
        np.testing.assert_allclose(kernel.transition(big_b, m_inv), expm(drift * big_b), rtol=1e-9, atol=1e-13)
        # Van Loan: the integral of exp(F s) G exp(F s)^T, from one exponential of twice the size.
        block = expm(np.block([[-drift, noise], [np.zeros((2, 2)), drift.T]]) * big_b)
        sigma = block[2:, 2:].T @ block[:2, 2:] + expm(drift * big_b) @ start @ expm(drift * big_b).T
        ours = kernel.covariance(big_b, m_inv, var_x=initial[0], var_y=initial[1])
        np.testing.assert_allclose([[ours.xx, ours.xv], [ours.xv, ours.vv]], sigma, rtol=1e-7, atol=1e-12)
        # ... and it satisfies dSigma/dB = F Sigma + Sigma F^T + G.
        h = 1e-5 * big_b
        up, down = (kernel.covariance(big_b + s * h, m_inv, var_x=initial[0], var_y=initial[1]) for s in (1, -1))
        slope = np.array([up.xx - down.xx, up.xv - down.xv, up.vv - down.vv]) / (2 * h)
        right = drift @ sigma + sigma @ drift.T + noise
        np.testing.assert_allclose(slope, [right[0, 0], right[0, 1], right[1, 1]], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "sde", [CLD(), CLD(beta0=0.1, beta1=6.9, m_inv=9.0, gamma=0.5), VPSDE(), VPSDE(numerical_eps=1e-3)]
)
def test_kernel_law_and_reverse_are_what_the_matrices_say(sde):
    check(sde)


class TooMuchNoise(CLD):
    @property
    def D(self):
        return (3.0 * self.friction,)


class MixedUpMean(CLD):
    def mean(self, t):
        (xx, xv), (vx, vv) = super().mean(t)
        return (xx, vx), (xv, vv)


@pytest.mark.parametrize(("wrong", "words"), [(TooMuchNoise(), "not the stationary law"), (MixedUpMean(), "not close")])
def test_the_check_notices_what_is_wrong(wrong, words):
    with pytest.raises(AssertionError, match=words):
        check(wrong)


def test_semigroup():
    def matrix(big_b: float) -> np.ndarray:
        return np.array(kernel.transition(big_b, 4.0))

    for first, second in ((1e-5, 2e-3), (0.1, 0.4), (1.3, 2.2)):
        np.testing.assert_allclose(matrix(first) @ matrix(second), matrix(first + second), rtol=1e-12, atol=1e-15)


def test_both_branches_of_the_incomplete_gamma_function_agree():
    z = torch.linspace(0.05, kernel.SERIES_BELOW, 50, dtype=torch.float64)
    series, closed = (f(z, torch.exp(-z)) for f in (kernel.gamma3_series, kernel.gamma3_closed))
    # What the closed form loses: one rounding of 1 against a value of z^3 / 6.
    assert ((series - closed).abs() <= 3e-16).all()
    torch.testing.assert_close(series, torch.special.gammainc(torch.full_like(z, 3.0), z), rtol=1e-13, atol=0)
    across = torch.tensor([1e-8, kernel.SERIES_BELOW - 1e-12, kernel.SERIES_BELOW, 5.0], dtype=torch.float64)
    expected = [kernel.gamma3(float(z), float(torch.exp(-z))) for z in across]
    torch.testing.assert_close(kernel.gamma3(across, torch.exp(-across)).tolist(), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("sde", [CLD(), CLD(beta0=0.1, beta1=6.9), VPSDE()])
def test_floats_and_tensors_give_the_same_coefficients(sde):
    times = torch.tensor([1e-5, 0.01, 0.5, 1.0], dtype=torch.float64)

    def coefficients(t):
        matrices = (sde.mean(t), sde.factor(t, "dsm"), *sde.mixed(t, "hsm"))
        return [entry for matrix in matrices for row in matrix for entry in row]

    at_once = coefficients(times)
    for i, t in enumerate(times.tolist()):
        for whole, single in zip(at_once, coefficients(t), strict=True):
            assert float(whole[i]) == pytest.approx(single, rel=1e-13)


def test_schedule_is_its_integral():
    schedule = CLD(beta0=0.1, beta1=6.9).schedule
    assert schedule.integral(1.0) == pytest.approx(3.55)
    assert schedule.between(0.2, 0.7) == pytest.approx(schedule.integral(0.7) - schedule.integral(0.2))
    assert schedule.between(0.5, 0.5 + 1e-12) == pytest.approx(1e-12 * schedule.beta(0.5), rel=1e-3)


def test_hsm_target_at_the_smallest_time():
    assert CLD(numerical_eps=1e-9).target(1e-5)[0][0] == pytest.approx(11.2, abs=0.05)


@pytest.mark.parametrize("t", [1e-8, 1e-6, 1e-5])
def test_factors_at_small_times_are_those_of_the_documentation(t):
    """docs/math.md 4: both diverge like 1 / sqrt(t) without numerical_eps, and are bounded with it."""
    bare, usual = (diffusions.build(CldSpec(numerical_eps=eps)) for eps in (0.0, 1e-6))
    assert bare.target(t, "hsm")[0][0] == pytest.approx((3 / (8 * t)) ** 0.5, rel=1e-3)
    assert bare.target(t, "dsm")[0][0] == pytest.approx((4 / (8 * t)) ** 0.5, rel=1e-3)
    assert usual.target(t, "hsm")[0][0] == pytest.approx(10, rel=1e-2)
    assert usual.target(t, "dsm")[0][0] == pytest.approx((8 * t + 1e-6) ** -0.5, rel=1e-3)


def test_build_reads_the_recipe():
    cld = diffusions.build(CldSpec(beta0=0.1, beta1=6.9, m_inv=1.0, gamma=0.1, numerical_eps=0.0))
    assert isinstance(cld, CLD)
    assert (cld.schedule.beta1, cld.mass, cld.friction, cld.gamma, cld.numerical_eps) == (6.9, 1.0, 2.0, 0.1, 0.0)
    assert isinstance(diffusions.build(VpsdeSpec()), VPSDE)


def test_prior_has_the_mass_as_velocity_variance():
    draws = CLD(m_inv=4.0).prior(torch.ones(3, 4))
    torch.testing.assert_close(draws, torch.tensor([[1.0, 1.0, 0.5, 0.5]]).expand(3, 4))


TIMES = torch.cat(
    [torch.logspace(-9, 0, 300, dtype=torch.float64), torch.linspace(0.01, 0.02, 100, dtype=torch.float64)]
)


@pytest.mark.parametrize("sde", [CLD(), CLD(beta0=0.1, beta1=6.9, m_inv=9.0, gamma=0.5), CLD(numerical_eps=0.0)])
@pytest.mark.parametrize("name", ["mean", "factor", "target", "mixed", "known_precision"])
def test_on_the_cpu_numpy_computes_what_torch_does_to_the_last_bit(sde, name):
    for times in (TIMES, TIMES.view(4, 100), TIMES[:0], TIMES[7]):
        by_numpy, by_torch = getattr(sde, name)(times), getattr(CLD, name).__wrapped__(sde, times)
        for ours, theirs in zip(leaves(by_numpy), leaves(by_torch), strict=True):
            assert isinstance(ours, torch.Tensor)
            assert ours.shape == times.shape
            assert torch.equal(ours, theirs)


def test_numpy_is_silent_where_torch_is():
    assert bool(torch.isnan(CLD(numerical_eps=0.0).factor(torch.zeros(3, dtype=torch.float64))[1][0]).all())


def test_times_can_be_differentiated():
    t = torch.tensor([0.1, 0.7], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(CLD().target(t)[0][0].sum(), t)
    for i, at in enumerate(t.tolist()):
        up, down = (CLD().target(at + h)[0][0] for h in (1e-6, -1e-6))
        assert float(slope[i]) == pytest.approx((up - down) / 2e-6, rel=1e-6)


def leaves(value):
    return [leaf for entry in value for leaf in leaves(entry)] if isinstance(value, tuple) else [value]
