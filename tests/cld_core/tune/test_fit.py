"""The stages of a fit: each row follows from those before it, and held-out noise decides."""

import dataclasses
import math

import pytest
import torch

from cld_core import samplers
from cld_core.analytic import diamond, gaussian
from cld_core.config.sampling import ExponentialSpec
from cld_core.run.tunings import STAGES, Coefficients, Row
from cld_core.samplers.tuned import Linear
from cld_core.sde import CLD, VPSDE
from cld_core.seeds import SampleNoise
from cld_core.tune import job as fit
from cld_core.tune.job import Ends, Problem, advanced
from cld_core.tune.linear import Fitted
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
