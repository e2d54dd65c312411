"""Steps of the exponential sampler that are repeated: with an exact score the law of samples stays what it is."""

import pytest
import torch

from cld_core.analytic import gaussian
from cld_core.samplers import sample
from cld_core.samplers.path import Recorder
from cld_core.sde import CLD, HOLD, VPSDE
from cld_core.seeds import SampleNoise
from tests.support.sampling import spec_of

KEYS = {"nfe": 41, "order": 2, "corrector": True, "repeats": 3}


def drawn(sde, n, recorder=None, first=0, **keys):
    noise = SampleNoise(0, "sample", first=first, last=n)
    return sample(gaussian(0.5).score(sde), sde, spec_of("exponential", **keys), noise, (2,), watcher=recorder)


@pytest.mark.parametrize("sde", [CLD(numerical_eps=0.0), HOLD(numerical_eps=0.0), VPSDE()], ids=lambda sde: str(sde.n))
@pytest.mark.parametrize("keys", [{"jump": 1}, {"jump": 7}, {"jump": 100}, {"jump": 7, "eta": 0.5, "corrector": False}])
def test_samples_have_the_law_of_the_data(sde, keys):
    found = drawn(sde, 3000, **{**KEYS, **keys})
    assert found.nfe == 40 * 3 + 1
    # The standard error of the spread of 6,000 numbers is 0.005.
    assert float(found.x.std()) == pytest.approx(0.5, abs=0.025)
    assert float(found.x.mean()) == pytest.approx(0.0, abs=0.025)


def test_a_sample_depends_on_its_own_noise_alone():
    many, few = (drawn(CLD(), n, first=first, **KEYS, jump=7).x for n, first in ((9, 0), (7, 4)))
    assert torch.equal(many[4:7], few)
    assert not torch.equal(many, drawn(CLD(), 9, **{**KEYS, "repeats": 2}, jump=7).x)
    assert torch.equal(drawn(CLD(), 9, **{**KEYS, "repeats": 1}).x, drawn(CLD(), 9, **{**KEYS, "repeats": 1}, jump=7).x)


def test_a_watcher_sees_the_last_time_of_each_step():
    plain, watched = Recorder(1000), Recorder(1000)
    drawn(CLD(), 3, plain, **{**KEYS, "repeats": 1})
    found = drawn(CLD(), 3, watched, **KEYS, jump=7)
    times, states = watched.path()
    assert torch.equal(times, plain.path()[0])
    assert states.shape[0] == 41
    assert torch.equal(found.x, drawn(CLD(), 3, **KEYS, jump=7).x)
