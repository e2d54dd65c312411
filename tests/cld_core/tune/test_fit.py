"""A fit: its stages, its linear problem, its gradients, and the solutions that it leaves."""

import dataclasses
import functools
import math
from dataclasses import replace

import pytest
import torch

from cld_core import samplers
from cld_core.analytic import GaussianMixture, diamond, gaussian
from cld_core.config.sampling import ExponentialSpec, TunedSpec
from cld_core.errors import UsageError
from cld_core.samplers.tuned import Linear, sample
from cld_core.sde import CLD, VPSDE
from cld_core.seeds import SampleNoise
from cld_core.solutions import Coefficients, Flow, Network, Solution, Solutions, moved_on
from cld_core.tune import job as fit
from cld_core.tune.job import Ends, Problem, advanced
from cld_core.tune.linear import (
    MEMORY,
    Fitted,
    by_backpropagation,
    by_copies,
    extended,
    of_exponential,
    packed,
    shares_of,
    spaced,
    times_of,
    unpacked,
    with_memory,
)
from cld_core.tune.tuning import CANDIDATES, STAGES, Row
from tests.support.numeric import BothScored, ThirdOrder

EPS = 1e-3


def ends(law, sde, seed, n):
    score = law.score(sde)
    spec = ExponentialSpec(nfe=60, order=2, corrector=True, eps=EPS)
    noise = [SampleNoise(seed, "fit", first=0, last=n) for _ in range(2)]
    x = samplers.sample(score, sde, spec, noise[0], (law.dimension,)).x.double()
    return Ends(sde.prior(noise[1].normal((law.dimension * sde.n,))).double(), x)


def problem(law, sde, nfe, n):
    return Problem(Fitted(law.score(sde), sde, 4096), ends(law, sde, 0, n), ends(law, sde, 1, n), nfe, EPS, True)


@torch.no_grad()
def fitted(task, fewer=0, grid=6, coefficients=6):
    """The beginning of each stage."""
    rows = {stage: [] for stage in STAGES}
    counts = {"untuned": STAGES["untuned"], "fewer": fewer, "grid": grid, "coefficients": coefficients}
    for stage, count in counts.items():
        for _ in range(count):
            rows[stage].append(task.row(stage, rows))
    return rows


@pytest.mark.parametrize("sde", [CLD(), VPSDE(), BothScored(), ThirdOrder()], ids=lambda sde: type(sde).__name__)
def test_on_normal_data_four_evaluations_follow_the_flow(sde):
    """There the flow is linear, and so is a fitted sampler: it can be exact."""
    # For a standard deviation of 0.5, the untuned sampler is exact if both halves are scored.
    task = problem(gaussian(0.4 if sde.m == 2 else 0.5, d=1), sde, 4, 24)
    rows = fitted(task)
    rms = {stage: fit.best(rows[stage]).held for stage in STAGES if rows[stage]}
    assert rms["grid"] < rms["untuned"]
    assert rms["coefficients"] < 0.02 * rms["untuned"]
    assert fit.kept(rows) == "coefficients"
    best = fit.best(rows["coefficients"])
    x = task.fitted.samples(Linear.of(best.sampler), task.held.u)
    assert float((x - task.held.x).square().mean().sqrt()) == pytest.approx(best.held, rel=1e-9)


def test_a_row_follows_from_those_before_it():
    """So a fit that was interrupted anywhere goes on to the same bits."""
    task = problem(gaussian(0.3, d=1), CLD(), 3, 8)
    rows = fitted(task, grid=8, coefficients=3)
    for stage in STAGES:
        for number in {1, len(rows[stage]) - 1} if rows[stage] else ():
            before = {**rows, stage: rows[stage][:number]}
            again = task.row(stage, before)
            assert again == rows[stage][number]


def row(held, which=0, fit_=0.0):
    return Row(which, Coefficients((), ()), 0.1, fit_, held)


def test_held_out_noise_decides_what_is_kept():
    rows = {"untuned": [row(0.3), row(0.2)], "fewer": [], "grid": [row(0.1)], "coefficients": [row(0.15), row(0.12)]}
    assert fit.kept(rows) == "grid"
    assert fit.kept({**rows, "coefficients": [row(0.09)]}) == "coefficients"
    assert fit.kept({**rows, "grid": [row(0.5)], "coefficients": [row(math.inf)]}) == "untuned"
    # Of equals the simplest.
    assert fit.kept({stage: [row(0.2)] for stage in STAGES}) == "untuned"


def test_what_does_not_hold_for_other_noise_is_not_kept():
    task = problem(diamond(), CLD(), 5, 8)
    # The points that are fitted lead to ends that no others lead to.
    task = dataclasses.replace(task, fit=Ends(task.fit.u, 5.0 * task.fit.x))
    rows = fitted(task)
    assert min(one.fit for one in rows["coefficients"]) < min(one.fit for one in rows["untuned"])
    assert fit.kept(rows) == "untuned"


def test_an_iteration_solves_a_linear_problem():
    matrix = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def errors(parameters):
        return (matrix @ (parameters - truth))[:, None]

    zeros = torch.zeros(3, dtype=torch.float64)
    parts = matrix.T[:, :, None].split(5, dim=1)
    found, _, left = advanced(zeros, 1e-9, errors(zeros), errors, lambda *_: parts, robust=False)
    assert torch.allclose(found, truth, atol=1e-6)
    assert torch.equal(left, errors(found))


def test_an_iteration_that_finds_nothing_better_stays_and_is_damped():
    def errors(parameters):
        return torch.full((4, 1), math.nan, dtype=torch.float64) if parameters.any() else torch.ones(4, 1).double()

    before, ones = torch.zeros(2, dtype=torch.float64), torch.ones(4, 1).double()
    after, damping, _ = advanced(before, 0.1, ones, errors, lambda *_: [torch.ones(2, 4, 1).double()], robust=True)
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
    wanted = samplers.sample(score, sde, spec, InFloat64(0, "linear", first=0, last=8), (2,))
    linear = of_exponential(sde, spaced(sde, 6, eps, denoise, "power 6"), order, corrector, denoise)
    flow = Flow(eps=eps, denoise=denoise)
    solution = Solution(coefficients=with_memory(linear).plain(), flow=flow, rms={}, about={})
    found, _ = sample(score, sde, TunedSpec(nfe=6), prior(sde), None, solution=solution)
    whole = wanted.x if wanted.v is None else torch.cat([wanted.x, wanted.v], dim=1)
    assert solution.nfe == wanted.nfe == 6
    assert torch.allclose(found, whole, rtol=1e-9, atol=1e-9)
    assert torch.allclose(Fitted(score, sde, 5).samples(linear, prior(sde)), wanted.x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sde", DIFFUSIONS, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("denoise", [True, False])
def test_idle_evaluations_leave_the_samples_as_they_are(sde, denoise):
    fitted, u = Fitted(diamond().score(sde), sde, 1000), prior(sde)
    few = with_memory(of_exponential(sde, spaced(sde, 5, 1e-2, denoise, "power 6"), 3, True, denoise))
    more = with_memory(extended(few, sde, 9, 1e-2, denoise))
    assert len(more.times) == 9
    assert bool((more.times.diff() < 0).all())
    assert torch.allclose(fitted.samples(more, u), fitted.samples(few, u), rtol=0, atol=1e-11)
    assert more.memory > MEMORY
    again = unpacked(packed(more, denoise), more, denoise, 1e-2)
    assert all(torch.equal(a, b) for a, b in zip(again.matrices, more.matrices, strict=True))


@functools.cache
def central_differences(sde, denoise):
    """A sampler, the noise that it starts from, and the derivatives of its samples by each parameter."""
    fitted, eps, u = Fitted(diamond().score(sde), sde, 3), 1e-2, prior(sde, 4)
    origin = with_memory(of_exponential(sde, spaced(sde, 4, eps, denoise, "power 3"), 2, False, denoise))
    parameters = packed(origin, denoise)

    def at(moved):
        return fitted.samples(unpacked(moved, origin, denoise, eps), u)

    units = torch.eye(len(parameters), dtype=torch.float64)
    found = [(at(parameters + 1e-6 * unit) - at(parameters - 1e-6 * unit)) / 2e-6 for unit in units]
    return fitted, origin, u, found


@pytest.mark.parametrize(("way", "tolerance"), [(by_copies, 0.02), (by_backpropagation, 1e-4)])
@pytest.mark.parametrize("sde", [CLD(), VPSDE(), BothScored(), ThirdOrder()], ids=lambda sde: type(sde).__name__)
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
    assert times_of(sde.schedule, shares_of(sde.schedule, times), 1e-3) == pytest.approx(times, rel=1e-9)


def test_images_are_fitted_as_points_are():
    """Coefficients are those of halves, whatever shape these have."""
    sde, d = CLD(), 3 * 2 * 2
    points = Fitted(GaussianMixture(torch.tensor([[0.5] * d, [-0.5] * d]), 0.3).score(sde), sde, 1000)
    images = Fitted(lambda u, t: points.score(u.flatten(1), t).unflatten(1, (3, 2, 2)), sde, 3)
    linear = with_memory(of_exponential(sde, spaced(sde, 3, 1e-2, True, "power 3"), 1, False, True))
    u = prior(sde, 4, d)
    (slopes,), (found,) = (
        fitted.slopes(linear, one, True) for fitted, one in ((points, u), (images, u.unflatten(1, (6, 2, 2))))
    )
    assert found.shape[1:] == (4, 3, 2, 2)
    assert torch.allclose(found.flatten(2), slopes)


FLOW = Flow(eps=1e-3, denoise=True)
SOLUTION = Solution(
    coefficients=Coefficients((1.0, 0.1), (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)),) * 2),
    flow=FLOW,
    step=20,
    checkpoint="abc",
    rms={"untuned": 0.5},
    about={"created": 1.0},
)
NETWORK, SPEC = Network(step=20, checkpoint="abc"), TunedSpec(nfe=2)


def of(*solutions):
    return Solutions(lambda: solutions, "mine")


def test_what_is_stored_is_read_again():
    one = replace(SOLUTION, flow=replace(FLOW, labels=True, guidance=1.5), ema_length=0.1)
    assert Solution.of_content(one.content()) == one


@pytest.mark.parametrize(
    "changes",
    [
        {"coefficients": Coefficients((1.0, math.nan), SOLUTION.coefficients.matrices)},
        {"coefficients": Coefficients((1.0, True), SOLUTION.coefficients.matrices)},
        {"flow": replace(FLOW, denoise=1)},
        {"flow": replace(FLOW, guidance=math.nan)},
        {"ema_length": "long"},
        {"rms": {"untuned": math.nan}},
    ],
)
def test_what_is_not_a_solution_is_refused(changes):
    with pytest.raises(ValueError):
        Solution.of_content(replace(SOLUTION, **changes).content())


def test_numbers_that_were_not_written_are_refused():
    content = SOLUTION.content()
    with pytest.raises(ValueError, match="written"):
        Solution.of_content({**content, "coefficients": {**content["coefficients"], "times": [1.0, 0.2]}})


def test_equal_weights_come_before_the_nearest_step_and_the_newest():
    other = replace(SOLUTION, checkpoint="replaced", about={"created": 9.0})
    average = replace(SOLUTION, ema_length=0.1, about={"created": 8.0})
    early = replace(SOLUTION, step=10, checkpoint="early", about={"created": 7.0})
    newer = replace(SOLUTION, about={"created": 2.0})
    solutions = of(SOLUTION, other, average, early, newer)
    assert solutions.chosen(SPEC, NETWORK) is newer
    assert solutions.chosen(SPEC, replace(NETWORK, checkpoint="replaced")) is other
    assert solutions.chosen(SPEC, replace(NETWORK, ema_length=0.1)) is average
    assert solutions.chosen(SPEC, Network(step=12, checkpoint="x")) is early
    assert solutions.chosen(SPEC, Network(step=20)) is other, "the newest, if nothing is known of the checkpoint"


def test_what_a_network_that_has_moved_on_is_told():
    assert moved_on(SOLUTION, NETWORK) is None
    assert moved_on(SOLUTION, Network(step=20)) is None
    assert "to step 20, not 30" in moved_on(SOLUTION, replace(NETWORK, step=30))
    assert "a checkpoint of step 20 that has been replaced" in moved_on(SOLUTION, replace(NETWORK, checkpoint="x"))
    assert "ema.length=null, not 0.1" in moved_on(SOLUTION, replace(NETWORK, ema_length=0.1))


def test_a_file_carries_the_solutions_of_its_weights_only():
    average = replace(SOLUTION, ema_length=0.1)
    solutions = of(SOLUTION, average, replace(SOLUTION, checkpoint="replaced"), replace(SOLUTION, step=10))

    def carried(network):
        return list(Solutions.of_file(solutions.carried(network), "file").read())

    assert carried(NETWORK) == [SOLUTION]
    assert carried(replace(NETWORK, ema_length=0.1)) == [average]
    assert carried(replace(NETWORK, checkpoint="other")) == []


@pytest.mark.parametrize(
    ("spec", "network", "said"),
    [
        (TunedSpec(nfe=2, eps=0.01), NETWORK, r"sampling.eps=0.001, not 0.01. .* --nfe 2 sampling.eps=0.01`"),
        (SPEC, replace(NETWORK, labels=True), r"was fitted without labels. Tune again: `cldctl tune mine --nfe 2`"),
    ],
)
def test_another_flow_is_refused(spec, network, said):
    with pytest.raises(UsageError, match=said):
        of(SOLUTION).chosen(spec, network)


def test_guidance_is_that_of_the_flow():
    labelled = replace(FLOW, labels=True)
    usual = replace(SOLUTION, flow=labelled)
    guided = replace(SOLUTION, flow=replace(labelled, guidance=1.5, guidance_to=0.5))
    network, solutions = replace(NETWORK, labels=True), of(guided, usual, SOLUTION)
    assert solutions.chosen(SPEC, network) is usual
    assert solutions.chosen(replace(SPEC, guidance_to=0.3), network) is usual, "it has no effect"
    assert solutions.chosen(replace(SPEC, guidance=1.5, guidance_to=0.5), network) is guided
    with pytest.raises(UsageError, match=r"fitted with sampling.guidance=1.5, not 2.0"):
        of(guided).chosen(replace(SPEC, guidance=2.0, guidance_to=0.5), network)
    with pytest.raises(UsageError, match=r"fitted with sampling.guidance_to=0.5, not 1.0"):
        of(guided).chosen(replace(SPEC, guidance=1.5), network)
