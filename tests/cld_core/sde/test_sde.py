"""Kernels, networks, losses and samplers of CLD, VPSDE and PSLD against the published ones
(tests/fixtures/parity)."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cld_core.config.train import ObjectiveSpec
from cld_core.loss import Draws, ScoreMatching
from cld_core.samplers import sample
from cld_core.score import Score
from cld_core.sde import CLD, PSLD, VPSDE
from cld_core.sde import diffusions as kernel
from cld_core.sde.matrices import apply
from tests.support import parity
from tests.support.affine import spec_of
from tests.support.numeric import AlphaOf, drift, float64, seeded

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
    # The published var_xx is a difference of numbers near 1: right to 4e-16 absolutely, which at t
    # = 1e-5 is 1.6e-8 of it. The test above shows on which side the error is.
    for entry, (i, j) in {"xx": (0, 0), "xv": (0, 1), "vv": (1, 1)}.items():
        assert_close(covariance[:, i, j], published[f"{name}/var_{entry}"], rtol=1e-9, atol=4e-16)
    early = t < 1e-3
    for mask, rtol in ((~early, 1e-9), (early, 5e-8)):
        theirs = published[f"{name}/noise_multiplier"][mask]
        assert_close(-sde.target(t, objective)[mask, 0, 0], theirs, rtol=rtol, atol=0)

    assert_close(apply(sde.mean(t), u), published[f"{name}/mean"], rtol=1e-9, atol=0)
    assert_close(drift(sde, u, t), published[f"{name}/drift"], rtol=1e-12, atol=0)
    assert_close(
        sde.diffusion2(t)[:, 0].sqrt(), published[f"{name}/diffusion"][:, 2], rtol=1e-12, atol=0
    )
    assert_close(
        0.5 * sde.diffusion2(t)[:, 0], published[f"{name}/loss_multiplier"], rtol=1e-12, atol=0
    )
    prior = published[f"{name}/prior_logp_x"] + published[f"{name}/prior_logp_v"]
    assert_close(sde.prior_logp(u), prior, rtol=1e-9, atol=0)


def test_vpsde_agrees_with_the_published_one(published):
    # The published VPSDE never adds numerical_eps, whatever its settings say.
    sde, t, x = VPSDE(numerical_eps=0.0), published["t"], published["u"][:, :2]
    assert_close(sde.mean(t)[:, 0] * x, published["vpsde/mean"], rtol=1e-9, atol=0)
    assert_close(sde.factor(t)[:, 0, 0].square(), published["vpsde/var"], rtol=1e-9, atol=0)
    assert_close(-sde.target(t)[:, 0, 0], published["vpsde/noise_multiplier"], rtol=1e-9, atol=0)
    assert_close(
        0.5 * sde.diffusion2(t)[:, 0], published["vpsde/loss_multiplier"], rtol=1e-12, atol=0
    )
    assert_close(sde.prior_logp(x), published["vpsde/prior_logp_x"], rtol=1e-9, atol=0)


def test_both_branches_of_the_incomplete_gamma_function_agree():
    z = torch.linspace(0.05, kernel.SERIES_BELOW, 50, dtype=torch.float64)
    series, closed = (f(z, torch.exp(-z)) for f in (kernel.gamma3_series, kernel.gamma3_closed))
    # What the closed form loses: one rounding of 1 against a value of z^3 / 6.
    assert ((series - closed).abs() <= 3e-16).all()
    assert_close(series, torch.special.gammainc(torch.full_like(z, 3.0), z), rtol=1e-13, atol=0)
    across = float64([1e-8, kernel.SERIES_BELOW - 1e-12, kernel.SERIES_BELOW, 5.0])
    by_numpy = kernel.gamma3(across.numpy(), np.exp(-across.numpy()))
    np.testing.assert_allclose(
        by_numpy, kernel.gamma3(across, torch.exp(-across)).numpy(), rtol=1e-14, atol=0
    )


def test_numpy_is_silent_where_torch_is():
    assert bool(
        torch.isnan(
            CLD(numerical_eps=0.0).factor(torch.zeros(3, dtype=torch.float64))[:, 1, 0]
        ).all()
    )


PUBLISHED, PSLD_SETTINGS = parity.arrays("psld_kernel")
T, U = PUBLISHED["t"], PUBLISHED["u"]
LATE = T >= 0.02  # below, the published closed forms cancel
TOYS = pytest.mark.parametrize("name", parity.PSLD_TOYS)


@pytest.mark.parametrize("name", PSLD_SETTINGS)
@pytest.mark.parametrize("objective", ["hsm", "dsm"])
def test_the_kernel_of_psld_agrees_with_the_published_one(name, objective):
    # The published initial variance of HSM has been through float32.
    sde, rtol = parity.psld(PSLD_SETTINGS[name]), 3e-8 if objective == "hsm" else 1e-11

    def same(ours, theirs):
        assert_close(
            torch.as_tensor(ours)[LATE], PUBLISHED[theirs[0]][LATE, theirs[1]], rtol=rtol, atol=0
        )

    start = U if objective == "dsm" else torch.cat([U[:, :2], torch.zeros_like(U[:, 2:])], dim=1)
    assert_close(
        apply(sde.mean(T), start), PUBLISHED[f"{name}/{objective}/mean"], rtol=1e-9, atol=1e-13
    )
    factor = sde.factor(T, objective).flatten(1)
    for column in (0, 2, 3):
        same(factor[:, column], (f"{name}/{objective}/chol", column))
    target, first = sde.target(T, objective), 2 - sde.m
    for i in range(sde.m):
        for j in range(i, sde.m):
            same(target[:, i, j], (f"{name}/{objective}/inv_chol_T", 2 * (first + i) + first + j))


@pytest.mark.parametrize("name", PSLD_SETTINGS)
def test_drift_and_diffusion_are_the_published_ones(name):
    sde = parity.psld(PSLD_SETTINGS[name])
    assert_close(drift(sde, U, T), PUBLISHED[f"{name}/drift"], rtol=1e-12, atol=1e-14)
    theirs = PUBLISHED[f"{name}/diffusion"][:, ::2]  # of each half, whose two numbers are the same
    for rate, theirs_of_half in zip(
        sde.diffusion2(T).unbind(1), theirs.unbind(1)[-sde.m :], strict=True
    ):
        assert_close(rate.sqrt(), theirs_of_half, rtol=1e-12, atol=0)


@pytest.mark.parametrize("mixed", [False, True])
def test_both_factors_stand_for_the_same_score_and_loss(mixed):
    """The noise of one is a rotation of that of the other; errors of the score cost the same with
    either."""
    generator = seeded()
    x, noise, wanted = (
        torch.randn(5, k, generator=generator, dtype=torch.float64) for k in (2, 4, 4)
    )
    t = float64([1e-3, 0.1, 0.3, 0.6, 1.0])
    objective = ObjectiveSpec(weighting="likelihood", mixed_score=mixed)
    lower, upper = (PSLD(friction=0.25, nu=4.25, triangle=which) for which in ("lower", "upper"))
    rotated = apply(torch.linalg.inv(upper.factor(t)), apply(lower.factor(t), noise))
    losses, states = [], []
    for sde, own in ((lower, noise), (upper, rotated)):
        score = Score(sde, objective, AlphaOf(sde, objective, lambda u, t: wanted))
        matching = ScoreMatching(sde, objective)
        states.append(matching.perturb(x, Draws(t, own, None)))
        assert_close(score(states[-1], t), wanted, rtol=1e-9, atol=1e-9)
        losses.append(matching.losses(score, x, Draws(t, own, None)).weighted)
    assert_close(*states, rtol=1e-9, atol=1e-9)
    assert_close(*losses, rtol=1e-8, atol=1e-8)


@TOYS
def test_network_score_and_loss_are_the_published_ones(name):
    toy = parity.load_psld(name)
    data = toy.data
    u, t = data["u"], data["t"]
    assert_close(toy.net(u, t.float()), data["net"], rtol=1e-5, atol=1e-6)
    assert_close(toy.score()(u, t), data["score"], rtol=1e-4, atol=1e-4)
    matching = ScoreMatching(toy.sde, toy.objective)
    draws = Draws(data["loss/t"], data["loss/eps"], None)
    perturbed = matching.perturb(data["x"], draws)
    assert_close(perturbed.double(), data["loss/u"], rtol=1e-5, atol=1e-5)
    losses = matching.losses(toy.score(), data["x"], draws).weighted
    assert_close(losses, data["loss/hsm_per_sample"], rtol=1e-4, atol=1e-5)


@TOYS
@pytest.mark.parametrize("method", ["em", "sscs", "ode"])
@pytest.mark.parametrize("grid", ["uniform", "quadratic"])
def test_samplers_without_noise_end_where_the_published_ones_do(name, method, grid):
    toy, key, spec = parity.load_psld(name), "ode_rk45", spec_of("ode")
    if method != "ode":
        key = f"{method}_{grid}_zeronoise"
        spec = spec_of(
            method, nfe=int(toy.data["steps"]) + 1, grid="linear" if grid == "uniform" else grid
        )
    prior_std = torch.tensor(toy.sde.prior_std).repeat_interleave(2).float()
    out = sample(
        toy.score(), toy.sde, spec, parity.InjectedNoise(toy.data["prior"] / prior_std), (2,)
    )
    error = (torch.cat([out.x, out.v], dim=1) - toy.data[key]).abs().max()
    # Relative to the largest: untrained networks throw samples far.
    assert float(error / toy.data[key].abs().max()) < (1e-3 if method == "ode" else 1e-4)
