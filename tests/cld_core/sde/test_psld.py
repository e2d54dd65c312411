"""PSLD against its published implementation (tests/fixtures/parity/psld_*.npz), and against CLD, which it contains."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cld_core import sde as diffusions
from cld_core.config.sde import PsldSpec
from cld_core.config.train import ObjectiveSpec
from cld_core.loss import Draws, ScoreMatching
from cld_core.samplers import sample
from cld_core.score import Score
from cld_core.sde import CLD, PSLD
from cld_core.sde.matrices import apply
from tests.support import parity
from tests.support.affine import spec_of
from tests.support.numeric import AlphaOf, drift

PUBLISHED, SETTINGS = parity.arrays("psld_kernel")
T, U = PUBLISHED["t"], PUBLISHED["u"]
LATE = T >= 0.02  # below, the published closed forms cancel
TOYS = pytest.mark.parametrize("name", parity.PSLD_TOYS)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("objective", ["hsm", "dsm"])
def test_kernel_agrees_with_the_published_one(name, objective):
    # The published initial variance of HSM has been through float32.
    sde, rtol = parity.psld(SETTINGS[name]), 3e-8 if objective == "hsm" else 1e-11

    def same(ours, theirs):
        assert_close(torch.as_tensor(ours)[LATE], PUBLISHED[theirs[0]][LATE, theirs[1]], rtol=rtol, atol=0)

    start = U if objective == "dsm" else torch.cat([U[:, :2], torch.zeros_like(U[:, 2:])], dim=1)
    assert_close(apply(sde.mean(T), start), PUBLISHED[f"{name}/{objective}/mean"], rtol=1e-9, atol=1e-13)
    factor = sde.factor(T, objective).flatten(1)
    for column in (0, 2, 3):
        same(factor[:, column], (f"{name}/{objective}/chol", column))
    target, first = sde.target(T, objective), 2 - sde.m
    for i in range(sde.m):
        for j in range(i, sde.m):
            same(target[:, i, j], (f"{name}/{objective}/inv_chol_T", 2 * (first + i) + first + j))


@pytest.mark.parametrize("name", SETTINGS)
def test_drift_and_diffusion_are_the_published_ones(name):
    sde = parity.psld(SETTINGS[name])
    assert_close(drift(sde, U, T), PUBLISHED[f"{name}/drift"], rtol=1e-12, atol=1e-14)
    theirs = PUBLISHED[f"{name}/diffusion"][:, ::2]  # of each half, whose two numbers are the same
    for rate, theirs_of_half in zip(sde.diffusion2(T).unbind(1), theirs.unbind(1)[-sde.m :], strict=True):
        assert_close(rate.sqrt(), theirs_of_half, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("beta0", "beta1"), [(8.0, 0.0), (0.2, 13.8)])
@pytest.mark.parametrize("triangle", ["lower", "upper"])
def test_without_friction_of_the_data_it_is_cld(beta0, beta1, triangle):
    """Nu = 4 is a mass of 1/4, and beta counts double."""
    ours = PSLD(beta0=beta0, beta1=beta1, friction=0.0, nu=4.0, numerical_eps=1e-6, triangle=triangle)
    theirs = CLD(beta0=beta0 / 2, beta1=beta1 / 2, numerical_eps=1e-6)
    assert (ours.n, ours.m) == (2, 1)
    times = torch.cat([torch.logspace(-12, 0, 60, dtype=torch.float64), torch.tensor([0.3, 0.7]).double()])

    def coefficients(sde):
        parts = [sde.mean(times), sde.diffusion2(times), sde.known_precision(times)]
        for objective in ("hsm", "dsm"):
            parts += [sde.factor(times, objective), *sde.mixed(times, objective)]
        return parts

    for a, b in zip(coefficients(ours), coefficients(theirs), strict=True):
        # 1e-16 only where Psi_vv changes its sign, at b = 1.
        assert_close(a, b, rtol=1e-12, atol=1e-16)
    generator = torch.Generator().manual_seed(0)
    u, s = (torch.randn(len(times), k, generator=generator, dtype=torch.float64) for k in (4, 2))
    assert_close(ours.flow(u, s, times), theirs.flow(u, s, times), rtol=1e-12, atol=1e-12)
    assert_close(ours.prior_logp(u), theirs.prior_logp(u), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mixed", [False, True])
def test_both_factors_stand_for_the_same_score_and_loss(mixed):
    """The noise of one is a rotation of that of the other; errors of the score cost the same with either."""
    generator = torch.Generator().manual_seed(0)
    x, noise, wanted = (torch.randn(5, k, generator=generator, dtype=torch.float64) for k in (2, 4, 4))
    t = torch.tensor([1e-3, 0.1, 0.3, 0.6, 1.0], dtype=torch.float64)
    objective = ObjectiveSpec(weighting="likelihood", mixed_score=mixed)
    lower, upper = (PSLD(friction=0.25, nu=4.25, triangle=which) for which in ("lower", "upper"))
    rotated = apply(torch.linalg.inv(upper.factor(t)), apply(lower.factor(t), noise))
    losses, states = [], []
    for sde, own in ((lower, noise), (upper, rotated)):
        score = Score(sde, objective, AlphaOf(sde, objective, lambda u, t: wanted))
        matching = ScoreMatching(sde, objective)
        states.append(matching.perturb(x, Draws(t, own, None)))
        assert_close(score(states[-1], t), wanted, rtol=1e-9, atol=1e-9)
        losses.append(matching.per_sample(score, x, Draws(t, own, None)))
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
    losses = matching.per_sample(toy.score(), data["x"], draws)
    assert_close(losses, data["loss/hsm_per_sample"], rtol=1e-4, atol=1e-5)


@TOYS
@pytest.mark.parametrize("method", ["em", "sscs"])
@pytest.mark.parametrize("grid", ["uniform", "quadratic"])
def test_fixed_steps_without_noise_end_where_the_published_ones_do(name, method, grid):
    toy = parity.load_psld(name)
    spec = spec_of(method, nfe=int(toy.data["steps"]) + 1, grid="linear" if grid == "uniform" else grid)
    out = sample(toy.score(), toy.sde, spec, parity.InjectedNoise(toy.data["prior"] / prior_std(toy)), (2,))
    close(torch.cat([out.x, out.v], dim=1), toy.data[f"{method}_{grid}_zeronoise"], 1e-4)


@TOYS
def test_the_flow_ends_where_the_published_one_does(name):
    toy = parity.load_psld(name)
    out = sample(toy.score(), toy.sde, spec_of("ode"), parity.InjectedNoise(toy.data["prior"] / prior_std(toy)), (2,))
    close(torch.cat([out.x, out.v], dim=1), toy.data["ode_rk45"], 1e-3)


def prior_std(toy):
    return torch.tensor(toy.sde.prior_std).repeat_interleave(2).float()


def close(ours, theirs, tolerance):
    """Relative to the largest: untrained networks throw samples far."""
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < tolerance


def test_the_recipe_says_which_diffusion_it_is():
    sde = diffusions.build(PsldSpec(friction=0.25, nu=4.25, triangle="upper"))
    assert (sde.m_inv, sde.triangle, sde.m) == (4.0, "upper", 2)
    assert math.isclose(replace(sde, nu=2.25).m_inv, 1.0)
