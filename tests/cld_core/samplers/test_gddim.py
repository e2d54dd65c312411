"""gDDIM: exact for a single data point, orders of convergence, and the score of all halves from that of some."""

import math
from itertools import pairwise

import pytest
import torch

from cld_core.analytic import GaussianMixture, diamond
from cld_core.samplers import sample
from cld_core.samplers.gddim import whole_score
from cld_core.sde import CLD, HOLD, PSLD, VPSDE
from cld_core.seeds import SampleNoise
from tests.support.affine import output_covariance
from tests.support.sampling import spec_of

EXACT = {"numerical_eps": 0.0}
CONSTANT, RISING, VP = CLD(**EXACT), CLD(beta0=0.1, beta1=6.9, **EXACT), VPSDE()
BOTH, THIRD = PSLD(friction=0.5, nu=4.5, **EXACT), HOLD(**EXACT)
SHAPES = pytest.mark.parametrize(
    "sde", [VP, CONSTANT, RISING, BOTH, THIRD], ids=["vpsde", "cld", "cld rising", "psld", "hold"]
)


@SHAPES
def test_the_score_of_all_halves_follows_from_that_of_the_scored_ones(sde):
    law = GaussianMixture(torch.tensor([[-0.4], [0.3]]), 0.2)
    for t in (0.05, 0.3, 1.0):
        u = torch.randn(5, sde.n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        exact = torch.autograd.grad(law.score(sde).log_density(u, t).sum(), u)[0]
        whole = torch.cat([u.detach(), sde.scored(exact)], dim=1) @ whole_score(sde, t).T
        torch.testing.assert_close(whole, exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))


@pytest.mark.parametrize("sde", [VP, CONSTANT, RISING, BOTH], ids=["vpsde", "cld", "cld rising", "psld"])
@pytest.mark.parametrize("keys", [{"order": 0}, {"order": 2}, {"order": 0, "eta": 0.7}], ids=str)
def test_a_single_data_point_is_exact_in_any_number_of_steps(sde, keys):
    """The law of what comes out, from a linear score. Data of std 1e-6 are a point beside all else at t = 0.05."""
    few, many = (
        output_covariance(sde, spec_of("gddim", nfe=n, eps=0.05, denoise=False, **keys), std=1e-6) for n in (4, 9)
    )
    torch.testing.assert_close(few, many, rtol=1e-5, atol=1e-6 * float(many.abs().max()))


def orders(sde, numbers, std=0.5, **keys):
    found = [output_covariance(sde, spec_of("gddim", nfe=n, denoise=False, **keys), std) for n in numbers]
    return [
        math.log2(coarse / fine) for coarse, fine in pairwise(float((a - b).abs().max()) for a, b in pairwise(found))
    ]


ORDERS = [({"order": 0}, 1.0), ({"order": 0, "eta": 1.0}, 1.0), ({"order": 1}, 2.0), ({"order": 2}, 3.1)]


@pytest.mark.parametrize(
    ("sde", "keys", "measured"),
    [
        *((sde, *entry) for sde in (VP, CONSTANT) for entry in ORDERS),
        *((BOTH, *entry) for entry in ORDERS),
        *((VP, {**keys, "root": "cholesky"}, measured) for keys, measured in ORDERS if "eta" not in keys),
    ],
    ids=str,
)
def test_the_error_falls_with_the_power_order_plus_one_or_with_the_first_with_noise(sde, keys, measured):
    found = orders(sde, (20, 40, 80), eps=0.05, grid_power=3.0, **keys)[-1]
    assert found == pytest.approx(measured, abs=0.5), found


@pytest.mark.slow
@pytest.mark.parametrize(("order", "measured"), [(0, 1.0), (1, 2.0), (2, 2.0)])
def test_with_the_cholesky_factor_that_of_cld_does_not_pass_two(order, measured):
    found = orders(CONSTANT, (160, 320, 640), eps=0.05, grid_power=3.0, order=order, root="cholesky")[-1]
    assert found == pytest.approx(measured, abs=0.3), found


def test_of_order_zero_it_is_ddim_for_vpsde():
    keys = {"order": 0, "corrector": False, "nfe": 12, "grid": "linear"}
    noise = [SampleNoise(0, first=0, last=8) for _ in range(2)]
    found = [
        sample(diamond().score(VP), VP, spec_of(m, **keys), e, (2,)).x
        for m, e in zip(("gddim", "exponential"), noise, strict=True)
    ]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
