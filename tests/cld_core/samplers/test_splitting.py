"""Splitting, conjugate and gDDIM integrators: steps against formulas, orders of convergence,
evaluations, refusals."""

import math

import pytest
import torch
from torch.testing import assert_close

from cld_core.analytic import GaussianMixture, diamond, gaussian
from cld_core.errors import RecipeError
from cld_core.samplers import sample
from cld_core.samplers.gddim import whole_score
from cld_core.samplers.splitting import evaluating, steps
from cld_core.sde import CLD, HOLD, PSLD, VPSDE
from tests.support.affine import convergence, output_covariance, spec_of
from tests.support.numeric import noise_of, standard_normal

EXACT = {"numerical_eps": 0.0}
CONSTANT, RISING, VP = CLD(**EXACT), CLD(beta0=0.1, beta1=6.9, **EXACT), VPSDE()
BOTH, THIRD = PSLD(friction=0.5, nu=4.5, **EXACT), HOLD(**EXACT)
FLOW, NOISY = ("symplectic-euler", "velocity-verlet"), ("oba", "bao", "obab")


class GivenNoise:
    """First the prior, then blocks of steps, in the order in which they are asked for."""

    def __init__(self, *blocks):
        self.blocks = list(blocks)

    def normal(self, shape):
        block = self.blocks.pop(0)
        assert block.shape[1:] == shape
        return block


def last_step(sde, noise=(), **keys):
    """u before and after a single step from t = 1 to 0.8 with a made-up score, and that score as a
    function."""

    def score(u, t):
        return (1.3 + t) * torch.sin(sde.scored(u)) - 0.3

    z = standard_normal(4, sde.n)
    per_step = sum(evaluating(sde, spec_of("splitting", **keys)))
    spec = spec_of("splitting", nfe=per_step, eps=0.8, denoise=False, grid="linear", **keys)
    out = sample(score, sde, spec, GivenNoise(z, *noise), (1,))
    return [sde.prior(z)[:, [0]], sde.prior(z)[:, [1]]], [out.x, out.v], score


D = 8.0 * 0.2  # the increment of B of such a step
M_INV, FRICTION, NU = BOTH.m_inv, BOTH.friction, BOTH.nu


def test_a_reduced_symplectic_euler_step_of_psld_shares_the_score():
    """First x, then v with the new x. Of a naive step, each takes its own score."""
    for reduced in (True, False):
        (x, v), found, score = last_step(BOTH, scheme="symplectic-euler", reduced=reduced)
        s = score(torch.cat([x, v], 1), 1.0)
        new_x = x + D / 2 * (FRICTION * x - M_INV * v + FRICTION * s[:, [0]])
        s_v = (s if reduced else score(torch.cat([new_x, v], 1), 1.0))[:, [1]]
        assert_close(found, [new_x, v + D / 2 * (new_x + NU * v + NU / M_INV * s_v)])


def test_a_reduced_velocity_verlet_step_of_psld():
    """Half of x with the last score, here the prior's; v with that of the middle; the other half of
    x with it, too."""
    (x, v), found, score = last_step(BOTH, scheme="velocity-verlet")
    half_x = x + D / 4 * (FRICTION * x - M_INV * v - FRICTION * x)
    s = score(torch.cat([half_x, v], 1), 0.9)
    new_v = v + D / 2 * (half_x + NU * v + NU / M_INV * s[:, [1]])
    new_x = half_x + D / 4 * (FRICTION * half_x - M_INV * new_v + FRICTION * s[:, [0]])
    assert_close(found, [new_x, new_v])


@pytest.mark.parametrize("noise_scale", [1.0, 0.3])
def test_a_reduced_oba_step_of_psld(noise_scale):
    """The exact relaxation with noise, then v, then x, both with the score after the relaxation."""
    e = standard_normal(4, 1, 2, seed=1)
    (x, v), found, score = last_step(BOTH, (e,), scheme="oba", noise_scale=noise_scale)
    x = (
        math.exp(-D / 2 * FRICTION) * x
        + math.sqrt(1 - math.exp(-noise_scale * D * FRICTION)) * e[:, 0, [0]]
    )
    v = math.exp(-D / 2 * NU) * v + math.sqrt((1 - math.exp(-D * NU)) / M_INV) * e[:, 0, [1]]
    s = score(torch.cat([x, v], 1), 1.0)
    new_v = v + D / 2 * (x + 2 * NU * v + 2 * NU / M_INV * s[:, [1]])
    new_x = x + D / 2 * (2 * FRICTION * x - M_INV * new_v + 2 * FRICTION * s[:, [0]])
    assert_close(found, [new_x, new_v])


def of_diamond(sde, method, **keys):
    noise = noise_of(8)
    return sample(diamond().score(sde), sde, spec_of(method, **keys), noise, (2,)).x


DDIM = {"order": 0, "corrector": False}


@pytest.mark.parametrize(
    "sde", [CONSTANT, RISING, VP, BOTH], ids=["cld", "cld rising", "vpsde", "psld"]
)
def test_without_lambda_a_conjugate_step_is_the_exponential_one(sde):
    keys = {"nfe": 12, "grid_power": 3.0}
    ours, exponential = (
        of_diamond(sde, "conjugate", **keys),
        of_diamond(sde, "exponential", **DDIM, **keys),
    )
    assert_close(ours, exponential, rtol=1e-4, atol=1e-4)


def test_lambda_multiplies_the_transition_by_what_euler_makes_of_its_exponential():
    plain, shifted = (
        steps(RISING, (1.0, 0.5), spec_of("conjugate", conjugate_lambda=value))
        for value in (0.0, 0.4)
    )
    big_d = RISING.schedule.between(0.5, 1.0)
    factor = (1.0 - 0.4 * big_d) * math.exp(0.4 * big_d)
    assert_close(shifted[0][0].matrix, factor * plain[0][0].matrix)


def test_splitting_changes_nothing_where_all_halves_take_one_score_and_no_other_half():
    """Reduced symplectic Euler after the change of variables with J = 1 is lambda-DDIM."""
    keys = {"nfe": 12, "grid": "quadratic", "conjugate_lambda": 0.3}
    split = of_diamond(BOTH, "splitting", scheme="symplectic-euler", conjugate=True, **keys)
    assert_close(split, of_diamond(BOTH, "conjugate", **keys), rtol=1e-4, atol=1e-4)


CONJUGATE = {"conjugate": True, "conjugate_lambda": 0.3}


@pytest.mark.parametrize(
    ("sde", "keys"),
    [
        *((CONSTANT, {"scheme": scheme}) for scheme in (*FLOW, *NOISY)),
        *((BOTH, {"scheme": scheme}) for scheme in ("symplectic-euler", "obab")),
        (BOTH, {"scheme": "oba", "reduced": False}),
        (CONSTANT, {"scheme": "velocity-verlet", **CONJUGATE}),
        *(
            pytest.param(sde, keys, marks=pytest.mark.slow)
            for sde in (BOTH, THIRD)
            for keys in ({"scheme": "bao"}, {"scheme": "velocity-verlet", **CONJUGATE})
        ),
        (RISING, {"scheme": "velocity-verlet", **CONJUGATE, "conjugate_matrix": "ones"}),
        (RISING, {"scheme": "symplectic-euler", **CONJUGATE, "reduced": False}),
    ],
    ids=str,
)
def test_splitting_converges_with_first_order(sde, keys):
    specs = [spec_of("splitting", eps=0.05, denoise=False, nfe=n, **keys) for n in (60, 120, 240)]
    (_, coarse, fine), orders = convergence(sde, specs)
    assert orders == pytest.approx([1.0], abs=0.45)
    wanted = output_covariance(sde, spec_of("exponential", eps=0.05, denoise=False, nfe=30))
    if keys["scheme"] in FLOW:  # the reverse SDE forgets how far the prior is from the law at t = 1
        assert float((fine - wanted).abs().max()) < 3.0 * float((coarse - fine).abs().max())


@pytest.mark.parametrize("sde", [CONSTANT, VP], ids=["cld", "vpsde"])
@pytest.mark.parametrize("matrix", ["identity", "ones"])
def test_conjugate_steps_converge_with_first_order(sde, matrix):
    keys = {
        "eps": 0.05,
        "denoise": False,
        "grid_power": 3.0,
        "conjugate_lambda": 0.1,
        "conjugate_matrix": matrix,
    }
    _, orders = convergence(sde, [spec_of("conjugate", nfe=n, **keys) for n in (40, 80, 160)])
    assert orders == pytest.approx([1.0], abs=0.3)


# Evaluations of a naive step: one for each update of a group with a score; after a change of
# variables, for each.
COSTS = {
    "symplectic-euler": {"cld": 1, "psld": 2, "hold": 1},
    "velocity-verlet": {"cld": 1, "psld": 3, "hold": 1},
    "oba": {"cld": 1, "psld": 2, "hold": 1},
    "bao": {"cld": 1, "psld": 2, "hold": 1},
    "obab": {"cld": 2, "psld": 3, "hold": 2},
}


@pytest.mark.parametrize("scheme", COSTS)
@pytest.mark.parametrize(("name", "sde"), [("cld", CONSTANT), ("psld", BOTH), ("hold", THIRD)])
def test_evaluations_are_counted_and_reduced_steps_take_one(scheme, name, sde):
    seen = []
    exact = gaussian(d=1).score(sde)

    def score(u, t):
        seen.append(t)
        return exact(u, t)

    for reduced, denoise, conjugate in (
        (True, True, False),
        (False, True, False),
        (False, False, True),
    ):
        if conjugate and scheme in NOISY:
            continue
        seen.clear()
        spec = spec_of(
            "splitting",
            scheme=scheme,
            reduced=reduced,
            denoise=denoise,
            conjugate=conjugate,
            nfe=8,
            eps=0.05,
        )
        out = sample(score, sde, spec, noise_of(2), (1,))
        naive = (
            {"symplectic-euler": 2, "velocity-verlet": 3}[scheme]
            if conjugate
            else COSTS[scheme][name]
        )
        cost = 1 if reduced else naive
        assert out.nfe == len(seen) == (8 - denoise) // cost * cost + denoise


def test_too_few_evaluations_for_a_step_are_refused():
    spec = spec_of("splitting", reduced=False, nfe=3)
    with pytest.raises(
        RecipeError,
        match=r"nfe=3 is too small for .*splitting, .* 3 evaluations here\. Set .*nfe=4",
    ):
        sample(gaussian(d=1).score(BOTH), BOTH, spec, noise_of(2), (1,))


@pytest.mark.parametrize(
    "sde", [VP, CONSTANT, RISING, BOTH, THIRD], ids=["vpsde", "cld", "cld rising", "psld", "hold"]
)
def test_the_score_of_all_halves_follows_from_that_of_the_scored_ones(sde):
    law = GaussianMixture(torch.tensor([[-0.4], [0.3]]), 0.2)
    for t in (0.05, 0.3, 1.0):
        u = standard_normal(5, sde.n).requires_grad_()
        exact = torch.autograd.grad(law.score(sde).log_density(u, t).sum(), u)[0]
        whole = torch.cat([u.detach(), sde.scored(exact)], dim=1) @ whole_score(sde, t).T
        assert_close(whole, exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))


@pytest.mark.parametrize(
    "sde", [VP, CONSTANT, RISING, BOTH], ids=["vpsde", "cld", "cld rising", "psld"]
)
@pytest.mark.parametrize("keys", [{"order": 0}, {"order": 2}, {"order": 0, "eta": 0.7}], ids=str)
def test_a_single_data_point_is_exact_in_any_number_of_steps(sde, keys):
    """The law of what comes out, from a linear score. Data of std 1e-6 are a point beside all else
    at t = 0.05."""
    specs = [spec_of("gddim", nfe=n, eps=0.05, denoise=False, **keys) for n in (4, 9)]
    few, many = (output_covariance(sde, spec, std=1e-6) for spec in specs)
    assert_close(few, many, rtol=1e-5, atol=1e-6 * float(many.abs().max()))


LATE = {"eps": 0.05, "grid_power": 3.0, "denoise": False}
ORDERS = [
    ({"order": 0}, 1.0),
    ({"order": 0, "eta": 1.0}, 1.0),
    ({"order": 1}, 2.0),
    ({"order": 2}, 3.1),
]


@pytest.mark.parametrize(
    ("sde", "keys", "measured"),
    [
        *((sde, *entry) for sde in (VP, CONSTANT) for entry in ORDERS),
        *((BOTH, *entry) for entry in ORDERS),
        *(
            (VP, {**keys, "root": "cholesky"}, measured)
            for keys, measured in ORDERS
            if "eta" not in keys
        ),
    ],
    ids=str,
)
def test_the_error_falls_with_the_power_order_plus_one_or_with_the_first_with_noise(
    sde, keys, measured
):
    _, orders = convergence(sde, [spec_of("gddim", nfe=n, **LATE, **keys) for n in (20, 40, 80)])
    assert orders == pytest.approx([measured], abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("order", "measured"), [(0, 1.0), (1, 2.0), (2, 2.0)])
def test_with_the_cholesky_factor_that_of_cld_does_not_pass_two(order, measured):
    specs = [spec_of("gddim", nfe=n, order=order, root="cholesky", **LATE) for n in (160, 320, 640)]
    assert convergence(CONSTANT, specs)[1] == pytest.approx([measured], abs=0.3)


def test_of_order_zero_it_is_ddim_for_vpsde():
    keys = {**DDIM, "nfe": 12, "grid": "linear"}
    ours, exponential = of_diamond(VP, "gddim", **keys), of_diamond(VP, "exponential", **keys)
    assert_close(ours, exponential, rtol=1e-5, atol=1e-5)
