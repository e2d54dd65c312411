"""Watching samplers."""

import pytest
import torch

from cld_core.analytic import diamond, gaussian
from cld_core.samplers import sample
from cld_core.samplers.path import Recorder
from cld_core.sde import CLD, VPSDE
from cld_core.seeds import SampleNoise
from tests.support.sampling import spec_of

METHODS = [
    {"method": "em", "nfe": 21},
    {"method": "sscs", "nfe": 21},
    {"method": "sscs", "nfe": 21, "sscs_order": 2},
    {"method": "ode"},
    {"method": "exponential", "nfe": 21},
    {"method": "exponential", "nfe": 21, "order": 3, "corrector": False, "eta": 0.5},
]


def watched(method, points, sde=None, **keys):
    """The samples of the diamond, those of a sampler that is watched, and its path."""
    sde, recorder = sde or CLD(), Recorder(points)
    spec, score = spec_of(**method, **keys), diamond().score(sde)

    def draw(watcher=None):
        return sample(score, sde, spec, SampleNoise(7, "path", first=0, last=6), (2,), watcher=watcher)

    return draw(), draw(recorder), *recorder.path()


@pytest.mark.parametrize("method", METHODS, ids=str)
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


@pytest.mark.parametrize("method", [METHODS[0], METHODS[4]], ids=str)
def test_all_states_are_kept_if_there_is_room_for_them(method):
    _, _, t, u = watched(method, 1000, denoise=False, grid="linear")
    assert len(t) == len(u) == 22
    torch.testing.assert_close(t, torch.tensor(CLD().schedule.grid("linear", 21, 1e-3), dtype=torch.float64))


@pytest.mark.parametrize("sde", [CLD(), VPSDE()], ids=["cld", "vpsde"])
def test_states_of_the_flow_are_on_its_solution(sde):
    """Whatever steps the solver takes: with tiny ones, what is between them hardly matters."""
    score, paths = gaussian().score(sde), []
    for tolerance in (1e-5, 1e-9):
        recorder = Recorder(30)
        spec = spec_of("ode", rtol=tolerance, atol=tolerance)
        sample(score, sde, spec, SampleNoise(0, first=0, last=16), (2,), watcher=recorder)
        paths.append(recorder.path()[1])
    torch.testing.assert_close(*paths, rtol=0, atol=5e-3)
