import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cld_core.analytic import diamond, gaussian
from cld_core.config import keys as recipe_keys
from cld_core.config.sampling import FixedStepSpec
from cld_core.errors import RecipeError
from cld_core.plugins import register
from cld_core.samplers import FixedSteps, Recorder, ended, grid_of, sample
from cld_core.samplers.sscs import exact_part
from cld_core.sde import CLD, VPSDE
from cld_core.seeds import SampleNoise
from tests.support import parity
from tests.support.affine import output_covariance, spec_of
from tests.support.numeric import noise_of

CONSTANT, RISING = CLD(), CLD(beta0=0.1, beta1=6.9)


@pytest.mark.parametrize("name", parity.TOYS)
def test_samplers_agree_with_the_published_ones(name):
    toy = parity.load(name)
    prior = toy.data["prior"].clone()
    if toy.sde.n == 2:
        toy.sde.scored(prior).mul_(
            2.0
        )  # `sample` scales standard normal noise by sqrt(M) = 1/2 itself
    keys = [key.removesuffix("/x") for key in toy.data if key.endswith(("zeronoise/x", "rk45/x"))]
    assert len(keys) == (5 if toy.sde.n == 2 else 3)
    for key in keys:
        method, grid, *_ = key.split("_")
        spec = spec_of(method)
        if method != "ode":
            spec = spec_of(method, grid=grid, nfe=int(toy.data["n_discrete_steps"]))
        ours = sample(toy.score(), toy.sde, spec, parity.InjectedNoise(prior), (2,))
        # Untrained networks throw some samples to 1e4, hence a tolerance relative to the largest.
        tolerance = 1e-3 if method == "ode" else 2e-6
        for half, theirs in ((ours.x, f"{key}/x"), (ours.v, f"{key}/v")):
            if half is not None:
                expected = toy.data[theirs].float()
                scale = max(1.0, float(expected.abs().max()))
                assert_close(half / scale, expected / scale, rtol=0, atol=tolerance)
        if method == "ode":
            assert ours.nfe == pytest.approx(int(toy.data["ode_rk45/nfe"]), rel=0.25)


def test_sscs_has_the_known_errors_on_gaussian_data():
    found = [
        output_covariance(CONSTANT, spec_of("sscs", nfe=n))[0, 0].sqrt()
        for n in (50, 100, 200, 400)
    ]
    np.testing.assert_allclose(
        np.abs(np.array(found) - 0.5), [2.25e-2, 1.10e-2, 5.4e-3, 2.7e-3], rtol=0.01
    )


@pytest.mark.parametrize("grid", ["linear", "quadratic"])
@pytest.mark.parametrize(
    ("sde", "method"),
    [(CONSTANT, "sscs"), (RISING, "sscs"), (CONSTANT, "em"), (RISING, "em"), (VPSDE(), "em")],
)
def test_fixed_steps_converge_with_first_order(sde, method, grid):
    # Without the denoising step and from a small eps, so that the steps' own error is the only one.
    spec = spec_of(method, grid=grid, eps=1e-6, denoise=False)
    errors = [
        abs(float(output_covariance(sde, replace(spec, nfe=n))[0, 0].sqrt()) - 0.5)
        for n in (100, 200)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.2), errors


@pytest.mark.parametrize(
    ("sde", "grid"), [(CONSTANT, "linear"), (RISING, "linear"), (RISING, "quadratic")]
)
def test_sscs_of_second_order_converges_with_second_order(sde, grid):
    spec = spec_of("sscs", sscs_order=2, grid=grid, denoise=False)
    found = [
        float(output_covariance(sde, replace(spec, nfe=n))[0, 0].sqrt())
        for n in (50, 100, 200, 400)
    ]
    differences = [coarse - fine for coarse, fine in pairwise(found)]
    assert math.log2(differences[1] / differences[2]) == pytest.approx(2.0, abs=0.2), differences
    # At 50 evaluations the first order misses the std by 2e-2. At eps = 1e-3 the law is 2e-5 from
    # the data's.
    assert found[0] == pytest.approx(0.5, abs=6e-4)


@pytest.mark.parametrize("sde", [CONSTANT, RISING, VPSDE()])
def test_the_flow_ends_in_the_exact_law(sde):
    errors = []
    for tolerance in (1e-4, 1e-6, 1e-8):
        spec = spec_of("ode", rtol=tolerance, atol=tolerance, eps=1e-6, denoise=False)
        covariance = output_covariance(sde, spec)
        errors.append(abs(float(covariance[0, 0].sqrt()) - 0.5))
        if sde.n == 2 and tolerance == 1e-8:
            assert float(covariance[1, 1]) == pytest.approx(sde.gamma * sde.mass, rel=1e-3)
            assert float(covariance[0, 1]) == pytest.approx(0.0, abs=1e-4)
    # What is left at 1e-8 is the distance of the prior from the law at t = 1.
    assert errors[0] > errors[1]
    assert errors[2] < 5e-5


@pytest.mark.parametrize("sde", [CONSTANT, RISING])
@pytest.mark.parametrize("grid", ["linear", "quadratic"])
def test_sscs_is_exact_where_the_score_part_vanishes(sde, grid):
    """With s = -v/M only the exact parts act: their product is the whole map, for any grid and
    beta(t)."""
    start = torch.eye(2, dtype=torch.float64)
    none = torch.zeros_like(start)
    u = start
    for t, t_next in pairwise(sde.schedule.grid(grid, 7, 1e-3)):
        u = exact_part(sde, u, t, t_next, none)
    assert_close(u, exact_part(sde, start, 1.0, 1e-3, none), rtol=1e-10, atol=1e-13)


def with_nfe(method, nfe, **keys):
    """The spec of one of `METHODS` with ``nfe`` evaluations, if the method has a fixed number."""
    return spec_of(**method, **keys, **({} if method["method"] == "ode" else {"nfe": nfe}))


METHODS = [
    {"method": "em"},
    {"method": "sscs"},
    {"method": "sscs", "sscs_order": 2},
    {"method": "ode"},
    {"method": "exponential"},
    {"method": "exponential", "order": 3, "corrector": False, "eta": 0.5},
    {"method": "gddim", "root": "cholesky", "corrector": True},
    {"method": "gddim", "order": 0, "eta": 1.0},
    {"method": "conjugate"},
    {"method": "splitting"},
]


REPEATED = {"method": "exponential", "order": 2, "repeats": 3, "jump": 7}


@pytest.mark.parametrize("method", [*METHODS, REPEATED], ids=str)
def test_a_sample_does_not_depend_on_its_batch(method):
    sde, spec = CONSTANT, with_nfe(method, 20)
    score = diamond().score(sde)

    def draw(first, last):
        return sample(score, sde, spec, SampleNoise(7, "samples", first=first, last=last), (2,))

    whole = draw(0, 80)
    for first, last in ((0, 33), (33, 34), (34, 80)):
        part = draw(first, last)
        assert_close(part.x, whole.x[first:last], rtol=0, atol=2e-6)
        assert torch.equal(part.nfe_each, whole.nfe_each[first:last])


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("denoise", [True, False])
def test_nfe_counts_every_evaluation_denoising_included(method, denoise):
    sde, calls = CONSTANT, []
    exact = gaussian(d=1).score(sde)

    def score(u, t):
        calls.append(len(u))
        return exact(u, t)

    spec = with_nfe(method, 30, denoise=denoise)
    out = sample(score, sde, spec, noise_of(3), (1,))
    assert sum(calls) == int(out.nfe_each.sum())
    if spec.method != "ode":
        assert out.nfe == 30 == len(calls)


# Those that can be watched.
WATCHED = METHODS[:6]


def watched(method, points, **keys):
    """The samples of the diamond, those of a sampler that is watched, and its path."""
    spec, score, recorder = with_nfe(method, 21, **keys), diamond().score(CLD()), Recorder(points)

    def draw(watcher=None):
        return sample(
            score, CLD(), spec, SampleNoise(7, "path", first=0, last=6), (2,), watcher=watcher
        )

    return draw(), draw(recorder), *recorder.path()


@pytest.mark.parametrize("method", WATCHED, ids=str)
@pytest.mark.parametrize("denoise", [True, False])
def test_who_is_watched_draws_the_same_to_the_last_bit(method, denoise):
    alone, seen, t, u = watched(method, 8, denoise=denoise)
    assert torch.equal(alone.x, seen.x)
    assert torch.equal(alone.v, seen.v)
    assert u.shape == (8, 6, 4)
    assert (t[0], t[-1]) == (1.0, 1e-3)
    assert (t.diff() < 0).all()
    prior = CLD().prior(SampleNoise(7, "path", first=0, last=6).normal((4,)))
    assert torch.equal(u[0], prior)
    if not denoise:
        assert torch.equal(u[-1], torch.cat([seen.x, seen.v], dim=1))


@pytest.mark.parametrize("sde", [CLD(), VPSDE()], ids=["cld", "vpsde"])
def test_states_of_the_flow_are_on_its_solution(sde):
    """Whatever steps the solver takes: with tiny ones, what is between them hardly matters."""
    score, paths = gaussian().score(sde), []
    for tolerance in (1e-5, 1e-9):
        recorder = Recorder(30)
        spec = spec_of("ode", rtol=tolerance, atol=tolerance)
        sample(score, sde, spec, noise_of(16), (2,), watcher=recorder)
        paths.append(recorder.path()[1])
    assert_close(*paths, rtol=0, atol=5e-3)


@dataclass(frozen=True, kw_only=True)
class HeunSpec(FixedStepSpec):
    method: Literal["heun"] = recipe_keys.key("heun", "Heun's method for the probability flow")


def heun(score, sde, spec, u, draws):
    """A method in a few lines: its grid and one step."""
    times = grid_of(spec, sde.schedule, per_step=2)

    def step(u, i):
        t, s = times[i], times[i + 1]
        slope = sde.flow(u, score(u, t), t)
        end = u + (s - t) * slope
        return u + 0.5 * (s - t) * (slope + sde.flow(end, score(end, s), s))

    return FixedSteps(times, step)


def heun_alone(score, sde, spec, u, draws):
    """The same method, which makes its steps itself."""
    steps = heun(score, sde, spec, u, draws)
    for i in range(len(steps.times) - 1):
        u = steps.step(u, i)
    return ended(score, sde, spec, u, 2 * (len(steps.times) - 1))


def of_heun(method, recorder=None, **keys):
    register("sampling", "heun", method, HeunSpec)
    noise, spec = noise_of(6, seed=7), HeunSpec(**keys)
    return sample(gaussian().score(CONSTANT), CONSTANT, spec, noise, (2,), watcher=recorder)


@pytest.mark.parametrize("denoise", [True, False])
def test_a_method_of_a_plug_in_gives_a_grid_and_one_step_or_makes_its_steps_itself(denoise):
    recorder = Recorder(1000)
    driven = of_heun(heun, recorder, nfe=41, denoise=denoise)
    alone = of_heun(heun_alone, nfe=41, denoise=denoise)
    assert torch.equal(driven.x, alone.x)
    assert torch.equal(driven.nfe_each, alone.nfe_each)
    assert driven.nfe == 40 + denoise
    assert recorder.path()[0].tolist() == CONSTANT.schedule.grid("linear", 20, HeunSpec.eps)


def test_the_states_of_a_method_that_makes_its_steps_itself_cannot_be_shown():
    with pytest.raises(RecipeError, match=r"sampling\.method=heun cannot be shown.*FixedSteps"):
        of_heun(heun_alone, Recorder(8), nfe=41)
