import functools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from cld_core.analytic import diamond, gaussian
from cld_core.samplers import Recorder, exponential, sample
from cld_core.samplers.exponential import steps, widening
from cld_core.samplers.multistep import lagrange
from cld_core.sde import CLD, HOLD, PSLD, VPSDE
from cld_core.seeds import SampleNoise
from tests.support import parity
from tests.support.affine import convergence, flow_covariance, output_covariance, spec_of
from tests.support.numeric import float64, noise_of, seeded, standard_normal

CONSTANT, RISING, VP = CLD(), CLD(beta0=0.1, beta1=6.9), VPSDE()
SDES = pytest.mark.parametrize("sde", [CONSTANT, RISING, VP], ids=["cld", "cld rising", "vpsde"])


def affine_errors(sde, spec, numbers, reference, std=0.5):
    return [
        float((output_covariance(sde, spec_of(**spec, nfe=n), std) - reference).abs().max())
        for n in numbers
    ]


def orders(errors):
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


DIFFUSIONS = {"cld": CONSTANT, "cld rising": RISING, "vpsde": VP, "psld": PSLD(), "hold": HOLD()}
# PSLD solves the whole score exactly if the data have the usual std of 0.5, and no order shows.
STD = 0.3


@functools.cache
def flow_end(sde, std):
    """The covariance to which the probability flow itself carries the prior."""
    return flow_covariance(sde, std=std)


@pytest.mark.parametrize("name", DIFFUSIONS)
@pytest.mark.parametrize(
    ("order", "corrector", "measured"),
    [(0, False, 1), (0, True, 2), (1, False, 2), (1, True, 2), (2, False, 3), (2, True, 3)],
)
def test_the_error_falls_with_the_power_order_plus_one(name, order, corrector, measured):
    """`order` is the degree of the interpolation: 0, without corrector, is exponential Euler (DDIM
    for VPSDE)."""
    sde = DIFFUSIONS[name]
    spec = {
        "method": "exponential",
        "order": order,
        "corrector": corrector,
        "grid_power": 3.0,
        "denoise": False,
    }
    # Order 2 shows itself later than those below it, and every order of HOLD later than that of the
    # others.
    numbers = (160, 320) if order == 2 or name == "hold" else (80, 160)
    errors = affine_errors(sde, spec, numbers, flow_end(sde, STD), STD)
    assert orders(errors)[-1] == pytest.approx(measured, abs=0.25), errors


@pytest.mark.parametrize("name", DIFFUSIONS)
def test_order_three_is_fourth_order(name):
    """At least: that of VPSDE is between 4 and 5 until rounding ends it."""
    sde, spec = (
        DIFFUSIONS[name],
        {"method": "exponential", "order": 3, "grid_power": 3.0, "denoise": False},
    )
    errors = affine_errors(sde, spec, (160, 320), flow_end(sde, STD), STD)
    assert orders(errors)[-1] > 3.8, errors
    assert errors[-1] < 1e-7


@SDES
@pytest.mark.parametrize(
    ("eta", "order", "measured", "within"),
    [(1.0, 0, 1.0, 0.55), (1.0, 1, 2.0, 0.1), (0.5, 1, 2.0, 0.45)],
)
def test_the_stochastic_form_ends_in_the_law_of_the_flow(sde, eta, order, measured, within):
    """Successive differences of the covariance fall with the order in the weak sense, and their
    limit is the law."""
    keys = {"order": order, "corrector": False, "eta": eta, "grid_power": 2.0, "denoise": False}
    found, falls = convergence(sde, [spec_of("exponential", **keys, nfe=n) for n in (50, 100, 200)])
    assert falls == pytest.approx([measured], abs=within)
    # At eps = 1e-3 the law of the data itself has not been reached: VPSDE is 1e-4 away.
    assert float(found[-1][0, 0].sqrt()) == pytest.approx(0.5, abs=1e-2 if order == 0 else 3e-4)


def weak_order(sde, numbers, **keys):
    """Of the covariance, from three numbers of steps."""
    specs = [spec_of("exponential", eta=1.0, denoise=False, nfe=n, **keys) for n in numbers]
    return convergence(sde, specs)[1][0]


@pytest.mark.parametrize(("order", "corrector"), [(0, True), (2, False), (2, True), (3, False)])
def test_noise_limits_the_weak_order_to_two(order, corrector):
    """VPSDE, where all of the score is interpolated. Without noise these orders are 2 to 4; for 1,
    see above."""
    numbers = (50, 100, 200) if order == 0 else (200, 400, 800)
    assert weak_order(
        VP, numbers, order=order, corrector=corrector, grid_power=2.0
    ) == pytest.approx(2.0, abs=0.15)


RECOMMENDED_WITH_NOISE = {"order": 2, "corrector": False, "eta": 1.0, "grid_power": 2.0}


@pytest.mark.parametrize("nfe", [50, 100, 150])
@pytest.mark.parametrize("sde", [CONSTANT, RISING], ids=["constant", "rising"])
def test_recommended_settings_keep_narrow_data_narrow(sde, nfe):
    assert widening(
        sde, spec_of("exponential", nfe=nfe, **RECOMMENDED_WITH_NOISE)
    ) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("sde", [CONSTANT, VP], ids=["cld", "vpsde"])
@pytest.mark.parametrize(
    "settings", [{"order": 3, "corrector": False}, {"eta": 0.3}, {"eta": 1.0}], ids=str
)
def test_widening_is_that_of_samples(settings, sde):
    """Of normal data on a line, whose score is linear."""
    spec, law = spec_of("exponential", nfe=12, **settings), gaussian(0.04, d=1)
    x = sample(law.score(sde), sde, spec, noise_of(20_000), (1,)).x.double()
    assert float(x.square().mean().sqrt()) / 0.04 == pytest.approx(widening(sde, spec), rel=0.03)


@pytest.mark.parametrize(
    ("sde", "settings", "warned"),
    [
        (VP, {"eta": 1.0, "nfe": 20}, True),
        (CONSTANT, {"eta": 1.0, "nfe": 10}, True),
        (CONSTANT, {"eta": 1.0, "nfe": 20}, False),
        (VP, {"nfe": 3}, False),
    ],
    ids=str,
)
def test_noise_that_grows_from_step_to_step_is_reported_once(sde, settings, warned, caplog):
    exponential._warn_of_growing_noise.cache_clear()
    spec = spec_of("exponential", **settings)
    for _ in range(2):
        sample(gaussian(d=1).score(sde), sde, spec, noise_of(2), (1,))
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == int(warned)
    assert all(f"sampling.nfe={spec.nfe} is too small for sampling.eta=1" in text for text in found)


def test_order_zero_for_vpsde_is_ddim():
    """x' = a'/a x + (sigma' - sigma a'/a) e, e = the predicted noise: the published closed form."""
    score = diamond().score(VP)
    u = standard_normal(8, 2)
    spec = spec_of("exponential", order=0, corrector=False, grid="linear", nfe=12, denoise=False)
    ours = sample(score, VP, spec, parity.InjectedNoise(u), (2,)).x
    for t, t_next in pairwise(VP.schedule.grid("linear", 12, 1e-3)):
        sigma, sigma_next = float(VP.factor(t)), float(VP.factor(t_next))
        ratio = float(VP.mean(t_next) / VP.mean(t))
        u = ratio * u + (sigma_next - sigma * ratio) * (-sigma * score(u, t))
    torch.testing.assert_close(ours, u, rtol=1e-10, atol=1e-12)


@SDES
def test_coefficients_solve_the_split_equation(sde):
    """Transition and predictor weights of steps 0 to 2 against an adaptive solution of the equation
    itself."""
    times = [1.0, 0.5, 0.1, 1e-3]
    n = sde.n
    for i, step in enumerate(steps(sde, tuple(times), 2, False, 0.0)):
        points = times[i::-1]
        assert step.predictor.shape == (n, n + i + 1)

        def field(t, u, points=points):
            u = torch.from_numpy(u).view(1, n)
            basis = lagrange(sde, points, float64([t]))[:, 0]
            alpha = float(basis @ torch.arange(1.0, len(points) + 1, dtype=torch.float64))
            v = sde.scored(u)
            return (
                sde.flow(u, -sde.known_precision(t) * v - sde.target(t) * alpha, t)
                .flatten()
                .numpy()
            )

        span, start = (times[i], times[i + 1]), np.linspace(1.0, 0.5, n)
        expected = solve_ivp(field, span, start, rtol=1e-11, atol=1e-13, method="DOP853").y[:, -1]
        alphas = np.arange(1.0, len(points) + 1)
        ours = step.predictor.numpy() @ np.concatenate([start, alphas])
        np.testing.assert_allclose(ours, expected, rtol=2e-9, atol=1e-11)


@SDES
def test_power_grid_is_uniform_in_a_root_of_the_clock(sde):
    grid = sde.schedule.grid("power", 10, 1e-3, 3.0)
    roots = [sde.schedule.integral(t) ** (1 / 3) for t in grid]
    assert (grid[0], grid[-1], len(grid)) == (1.0, 1e-3, 11)
    np.testing.assert_allclose(np.diff(roots), (roots[-1] - roots[0]) / 10, rtol=1e-12)


@pytest.mark.parametrize("name", parity.TOYS)
@pytest.mark.parametrize("changes", [{}, {"name": "dsm"}], ids=["as trained", "read as dsm"])
def test_any_network_converges_to_its_own_flow(name, changes):
    """Mixed or not, HSM or DSM: only the score counts. Untrained networks are rough, hence the many
    steps."""
    toy = parity.load(name)
    if changes and toy.sde.n == 1:
        pytest.skip("VPSDE is trained with DSM already")
    toy.net.double()
    generator = seeded()
    start = torch.randn(16, 2 * toy.sde.n, dtype=torch.float64, generator=generator)
    score = toy.score(**changes)

    def run(method, **settings):
        return sample(
            score, toy.sde, spec_of(method, eps=0.05, **settings), parity.InjectedNoise(start), (2,)
        ).x

    flow = run("ode", rtol=1e-6, atol=1e-6)
    scale = float(flow.abs().max())
    errors = [float((run("exponential", nfe=n) - flow).abs().max()) / scale for n in (50, 200)]
    assert errors[1] < 2e-3
    assert errors[1] < errors[0] / 8


def test_twenty_evaluations_reach_the_diamond():
    """The targets of docs/samplers.md, with fewer samples: exact score, recommended settings, both
    schedules."""
    law = diamond()
    for sde in (CONSTANT, RISING):
        fine, coarse = (
            sample(
                law.score(sde),
                sde,
                spec_of("exponential", nfe=n),
                noise_of(1000),
                (2,),
            )
            for n in (200, 20)
        )
        # The same noise: what differs is the solution's error and not the draw.
        difference = law.log_density(coarse.x).mean() - law.log_density(fine.x).mean()
        assert abs(float(difference)) < 0.1
        assert float((coarse.x - fine.x).square().mean().sqrt()) < 0.08


REPEATED = {"nfe": 41, "order": 2, "corrector": True, "repeats": 3}


def drawn(sde, n, recorder=None, **keys):
    noise = SampleNoise(0, "sample", first=0, last=n)
    return sample(
        gaussian(0.5).score(sde), sde, spec_of("exponential", **keys), noise, (2,), watcher=recorder
    )


def test_groups_matter_only_if_they_are_repeated():
    once = {**REPEATED, "repeats": 1}
    assert torch.equal(drawn(CLD(), 9, **once).x, drawn(CLD(), 9, **once, jump=7).x)


def test_a_watcher_sees_the_last_time_of_each_step():
    plain, watched = Recorder(1000), Recorder(1000)
    drawn(CLD(), 3, plain, **{**REPEATED, "repeats": 1})
    found = drawn(CLD(), 3, watched, **REPEATED, jump=7)
    times, states = watched.path()
    assert torch.equal(times, plain.path()[0])
    assert states.shape[0] == 41
    assert torch.equal(found.x, drawn(CLD(), 3, **REPEATED, jump=7).x)
