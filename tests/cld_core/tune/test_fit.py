"""A fit: its stages, its linear problem and its gradients."""

import functools
import math

import pytest
import torch

from cld_core import samplers, tune
from cld_core.analytic import GaussianMixture, diamond, gaussian
from cld_core.config.sampling import ExponentialSpec, TunedSpec
from cld_core.run.tunings import (
    CANDIDATES,
    STAGES,
    Flow,
    SamplerCoefficients,
    StageRow,
    TunedSampler,
)
from cld_core.samplers.tuned import (
    MEMORY,
    Linear,
    of_exponential,
    spaced,
    with_memory,
)
from cld_core.sde import CLD, VPSDE
from cld_core.seeds import SampleNoise
from cld_core.tune import (
    Fitted,
    FlowEndpoints,
    Problem,
    advanced,
    by_backpropagation,
    by_copies,
    packed,
    shares_of,
    times_of,
    unpacked,
)
from tests.support.numeric import BothScored, ThirdOrder, float64, standard_normal

EPS = 1e-3
SDES = pytest.mark.parametrize(
    "sde", [CLD(), VPSDE(), BothScored(), ThirdOrder()], ids=lambda sde: type(sde).__name__
)


def ends(law, sde, seed, n):
    score = law.score(sde)
    spec = ExponentialSpec(nfe=60, order=2, corrector=True, eps=EPS)
    noise = [SampleNoise(seed, "fit", first=0, last=n) for _ in range(2)]
    x = samplers.sample(score, sde, spec, noise[0], (law.dimension,)).x.double()
    return FlowEndpoints(sde.prior(noise[1].normal((law.dimension * sde.n,))).double(), x)


def problem(law, sde, nfe, n):
    return Problem(
        Fitted(law.score(sde), sde, 4096),
        ends(law, sde, 0, n),
        ends(law, sde, 1, n),
        nfe,
        EPS,
        True,
    )


@torch.no_grad()
def fitted(task, grid=6, coefficients=6):
    """The beginning of each stage."""
    rows = {stage: [] for stage in STAGES}
    counts = {
        "untuned": STAGES["untuned"],
        "grid": grid,
        "coefficients": coefficients,
    }
    for stage, count in counts.items():
        for _ in range(count):
            rows[stage].append(task.row(stage, rows))
    return rows


@SDES
def test_on_normal_data_four_evaluations_follow_the_flow(sde):
    """There the flow is linear, and so is a fitted sampler: it can be exact."""
    # For a standard deviation of 0.5, the untuned sampler is exact if both halves are scored.
    task = problem(gaussian(0.4 if sde.m == 2 else 0.5, d=1), sde, 4, 24)
    rows = fitted(task)
    rms = {stage: tune.best(rows[stage]).held for stage in STAGES if rows[stage]}
    assert rms["grid"] < rms["untuned"]
    assert rms["coefficients"] < 0.02 * rms["untuned"]
    assert tune.kept(rows) == "coefficients"
    best = tune.best(rows["coefficients"])
    x = task.fitted.samples(Linear.of(best.sampler), task.held.u)
    assert float((x - task.held.x).square().mean().sqrt()) == pytest.approx(best.held, rel=1e-9)


def row(held, which=0, fit_=0.0):
    return StageRow(which, SamplerCoefficients((), ()), 0.1, fit_, held)


def test_held_out_noise_decides_what_is_kept():
    rows = {
        "untuned": [row(0.3), row(0.2)],
        "grid": [row(0.1)],
        "coefficients": [row(0.15), row(0.12)],
    }
    assert tune.kept(rows) == "grid"
    assert tune.kept({**rows, "coefficients": [row(0.09)]}) == "coefficients"
    assert tune.kept({**rows, "grid": [row(0.5)], "coefficients": [row(math.inf)]}) == "untuned"
    # Of equals the simplest.
    assert tune.kept({stage: [row(0.2)] for stage in STAGES}) == "untuned"


def test_an_iteration_solves_a_linear_problem():
    matrix = standard_normal(12, 3)
    truth = float64([1.0, -2.0, 0.5])

    def errors(parameters):
        return (matrix @ (parameters - truth))[:, None]

    zeros = torch.zeros(3, dtype=torch.float64)
    parts = matrix.T[:, :, None].split(5, dim=1)
    found, _, left = advanced(zeros, 1e-9, errors(zeros), errors, lambda *_: parts, robust=False)
    assert torch.allclose(found, truth, atol=1e-6)
    assert torch.equal(left, errors(found))


def test_an_iteration_that_finds_nothing_better_stays_and_is_damped():
    def errors(parameters):
        return (
            torch.full((4, 1), math.nan, dtype=torch.float64)
            if parameters.any()
            else torch.ones(4, 1).double()
        )

    before = torch.zeros(2, dtype=torch.float64)
    ones = torch.ones(4, 1).double()
    after, damping, _ = advanced(
        before, 0.1, ones, errors, lambda *_: [torch.ones(2, 4, 1).double()], robust=True
    )
    assert torch.equal(after, before)
    assert damping > 1e3


DIFFUSIONS = [CLD(), CLD(beta0=0.1, beta1=6.9), VPSDE(), BothScored(), ThirdOrder()]


class InFloat64(SampleNoise):
    def normal(self, shape, dtype=torch.float64):
        return super().normal(shape, torch.float64)


def prior(sde, n=8, d=2):
    return sde.prior(InFloat64(0, "linear", first=0, last=n).normal((d * sde.n,)))


@pytest.mark.parametrize(
    ("sde", "order", "corrector"),
    [(CLD(), *settings) for settings in (*CANDIDATES, (0, True))]
    + [(sde, *settings) for sde in DIFFUSIONS[1:] for settings in ((1, False), (3, True))],
    ids=str,
)
@pytest.mark.parametrize("denoise", [True, False])
def test_the_exponential_sampler_is_a_linear_one(sde, order, corrector, denoise):
    score, eps = GaussianMixture(torch.tensor([[0.5, 0.0], [-0.5, 0.2]]), 0.3).score(sde), 1e-2
    spec = ExponentialSpec(nfe=6, eps=eps, denoise=denoise, order=order, corrector=corrector)

    def drawn(spec, **more):
        noise = InFloat64(0, "linear", first=0, last=8)
        return samplers.sample(score, sde, spec, noise, (2,), **more)

    wanted = drawn(spec)
    linear = of_exponential(sde, spaced(sde, 6, eps, denoise, "power 6"), order, corrector, denoise)
    flow = Flow(eps=eps, denoise=denoise)
    solution = TunedSampler(coefficients=with_memory(linear).plain(), flow=flow, rms={}, about={})
    found = drawn(TunedSpec(nfe=6, eps=eps, denoise=denoise), solution=solution)
    assert found.nfe == wanted.nfe == 6
    assert torch.allclose(found.x, wanted.x, rtol=1e-9, atol=1e-9)
    assert sde.n == 1 or torch.allclose(found.v, wanted.v, rtol=1e-9, atol=1e-9)
    assert torch.allclose(
        Fitted(score, sde, 5).samples(linear, prior(sde)), wanted.x, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("sde", DIFFUSIONS, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("denoise", [True, False])
def test_a_sampler_comes_back_from_its_parameters(sde, denoise):
    times = spaced(sde, 8, 1e-2, denoise, "power 6")
    linear = with_memory(of_exponential(sde, times, 3, True, denoise))
    assert linear.memory > MEMORY
    again = unpacked(packed(linear, denoise), linear, denoise, 1e-2)
    assert torch.allclose(again.times, linear.times)
    assert all(torch.equal(a, b) for a, b in zip(again.matrices, linear.matrices, strict=True))


@functools.cache
def central_differences(sde, denoise):
    """A sampler, the noise that it starts from, and the derivatives of its samples by each
    parameter."""
    fitted, eps, u = Fitted(diamond().score(sde), sde, 3), 1e-2, prior(sde, 4)
    origin = with_memory(
        of_exponential(sde, spaced(sde, 4, eps, denoise, "power 3"), 2, False, denoise)
    )
    parameters = packed(origin, denoise)

    def at(moved):
        return fitted.samples(unpacked(moved, origin, denoise, eps), u)

    units = torch.eye(len(parameters), dtype=torch.float64)
    found = [(at(parameters + 1e-6 * unit) - at(parameters - 1e-6 * unit)) / 2e-6 for unit in units]
    return fitted, origin, u, found


@pytest.mark.parametrize(("way", "tolerance"), [(by_copies, 0.02), (by_backpropagation, 1e-4)])
@SDES
@pytest.mark.parametrize("denoise", [True, False])
def test_derivatives_are_those_of_central_differences(sde, denoise, way, tolerance):
    fitted, origin, u, expected = central_differences(sde, denoise)
    slopes = way(fitted, origin, u, denoise)
    assert len(slopes) == len(expected)
    for found, wanted in zip(slopes, expected, strict=True):
        least = tolerance * float(wanted.abs().max()) + 1e-6
        assert torch.allclose(found, wanted, rtol=2.5 * tolerance, atol=least)


def test_backwards_derivatives_are_right_for_a_network_of_float32():
    """Differences of 1e-5 see its rounding in the numbers of early steps."""
    sde, eps, u = CLD(), 1e-2, prior(CLD(), 8)
    exact = diamond().score(sde)
    rounded = Fitted(lambda u, t: exact(u.float(), t).to(u), sde, 1000)
    origin = with_memory(of_exponential(sde, spaced(sde, 6, eps, True, "power 3"), 2, False, True))
    wanted = by_backpropagation(Fitted(exact, sde, 1000), origin, u, True)
    found = by_backpropagation(rounded, origin, u, True)
    forwards = by_copies(rounded, origin, u, True)
    size = wanted.flatten(1).norm(dim=1)
    assert ((found - wanted).flatten(1).norm(dim=1) < 1e-2 * size).all()
    assert ((forwards - wanted).flatten(1).norm(dim=1) > size).any()


@pytest.mark.parametrize("sde", [CLD(), CLD(beta0=0.1, beta1=6.9)])
def test_a_grid_comes_back_from_its_shares(sde):
    times = spaced(sde, 8, 1e-3, True, "power 3")
    assert times_of(sde.schedule, shares_of(sde.schedule, times), 1e-3) == pytest.approx(
        times, rel=1e-9
    )


def test_images_are_fitted_as_points_are():
    """Coefficients are those of halves, whatever shape these have."""
    sde, d = CLD(), 3 * 2 * 2
    points = Fitted(
        GaussianMixture(torch.tensor([[0.5] * d, [-0.5] * d]), 0.3).score(sde), sde, 1000
    )
    images = Fitted(lambda u, t: points.score(u.flatten(1), t).unflatten(1, (3, 2, 2)), sde, 3)
    linear = with_memory(of_exponential(sde, spaced(sde, 3, 1e-2, True, "power 3"), 1, False, True))
    u = prior(sde, 4, d)
    (slopes,) = points.slopes(linear, u, True)
    (found,) = images.slopes(linear, u.unflatten(1, (6, 2, 2)), True)
    assert found.shape[1:] == (4, 3, 2, 2)
    assert torch.allclose(found.flatten(2), slopes)
