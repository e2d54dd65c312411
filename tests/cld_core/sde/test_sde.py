import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cld_core import sde
from cld_core.config.sde import CldSpec
from cld_core.sde import CLD, VPSDE
from cld_core.sde import diffusions as kernel
from cld_core.sde.matrices import apply
from tests.support import parity
from tests.support.numeric import drift

SETTINGS = {
    "cifar10": (CLD(numerical_eps=1e-9), "hsm"),
    "celebahq_post": (CLD(beta0=0.1, beta1=6.9, numerical_eps=1e-6), "hsm"),
    "dsm": (CLD(numerical_eps=1e-9), "dsm"),
}


@pytest.fixture(scope="module")
def published():
    return parity.arrays("kernel")[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_kernel_agrees_with_the_published_one(published, name):
    sde, objective = SETTINGS[name]
    t, u = published["t"], published["u"]
    factor = sde.factor(t, objective)
    covariance = factor @ factor.mT
    # The published var_xx is a difference of numbers near 1: right to 4e-16 absolutely, which at t = 1e-5 is
    # 1.6e-8 of it. The test above shows on which side the error is.
    for entry, (i, j) in {"xx": (0, 0), "xv": (0, 1), "vv": (1, 1)}.items():
        assert_close(covariance[:, i, j], published[f"{name}/var_{entry}"], rtol=1e-9, atol=4e-16)
    early = t < 1e-3
    for mask, rtol in ((~early, 1e-9), (early, 5e-8)):
        theirs = published[f"{name}/noise_multiplier"][mask]
        assert_close(-sde.target(t, objective)[mask, 0, 0], theirs, rtol=rtol, atol=0)

    assert_close(apply(sde.mean(t), u), published[f"{name}/mean"], rtol=1e-9, atol=0)
    assert_close(drift(sde, u, t), published[f"{name}/drift"], rtol=1e-12, atol=0)
    assert_close(sde.diffusion2(t)[:, 0].sqrt(), published[f"{name}/diffusion"][:, 2], rtol=1e-12, atol=0)
    assert_close(0.5 * sde.diffusion2(t)[:, 0], published[f"{name}/loss_multiplier"], rtol=1e-12, atol=0)
    prior = published[f"{name}/prior_logp_x"] + published[f"{name}/prior_logp_v"]
    assert_close(sde.prior_logp(u), prior, rtol=1e-9, atol=0)


def test_vpsde_agrees_with_the_published_one(published):
    # The published VPSDE never adds numerical_eps, whatever its settings say.
    sde, t, x = VPSDE(numerical_eps=0.0), published["t"], published["u"][:, :2]
    assert_close(sde.mean(t)[:, 0] * x, published["vpsde/mean"], rtol=1e-9, atol=0)
    assert_close(sde.factor(t)[:, 0, 0].square(), published["vpsde/var"], rtol=1e-9, atol=0)
    assert_close(-sde.target(t)[:, 0, 0], published["vpsde/noise_multiplier"], rtol=1e-9, atol=0)
    assert_close(0.5 * sde.diffusion2(t)[:, 0], published["vpsde/loss_multiplier"], rtol=1e-12, atol=0)
    assert_close(sde.prior_logp(x), published["vpsde/prior_logp_x"], rtol=1e-9, atol=0)


def test_both_branches_of_the_incomplete_gamma_function_agree():
    z = torch.linspace(0.05, kernel.SERIES_BELOW, 50, dtype=torch.float64)
    series, closed = (f(z, torch.exp(-z)) for f in (kernel.gamma3_series, kernel.gamma3_closed))
    # What the closed form loses: one rounding of 1 against a value of z^3 / 6.
    assert ((series - closed).abs() <= 3e-16).all()
    assert_close(series, torch.special.gammainc(torch.full_like(z, 3.0), z), rtol=1e-13, atol=0)
    across = torch.tensor([1e-8, kernel.SERIES_BELOW - 1e-12, kernel.SERIES_BELOW, 5.0], dtype=torch.float64)
    by_numpy = kernel.gamma3(across.numpy(), np.exp(-across.numpy()))
    np.testing.assert_allclose(by_numpy, kernel.gamma3(across, torch.exp(-across)).numpy(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("t", [1e-8, 1e-6, 1e-5])
def test_factors_at_small_times_are_those_of_the_documentation(t):
    """docs/math.md 4: both diverge like 1 / sqrt(t) without numerical_eps, and are bounded with it."""
    bare, usual = (sde.build(CldSpec(numerical_eps=eps)) for eps in (0.0, 1e-6))
    assert bare.target(t, "hsm")[0][0] == pytest.approx((3 / (8 * t)) ** 0.5, rel=1e-3)
    assert bare.target(t, "dsm")[0][0] == pytest.approx((4 / (8 * t)) ** 0.5, rel=1e-3)
    assert usual.target(t, "hsm")[0][0] == pytest.approx(10, rel=1e-2)
    assert usual.target(t, "dsm")[0][0] == pytest.approx((8 * t + 1e-6) ** -0.5, rel=1e-3)


def test_numpy_is_silent_where_torch_is():
    assert bool(torch.isnan(CLD(numerical_eps=0.0).factor(torch.zeros(3, dtype=torch.float64))[:, 1, 0]).all())
