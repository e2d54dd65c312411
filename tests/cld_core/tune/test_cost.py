"""What a fit takes is counted beforehand, and one that takes more memory than there is is refused."""

import pytest
import torch

from cld_core.errors import UsageError
from cld_core.sde import CLD
from cld_core.tune import cost, derivatives
from cld_core.tune.derivatives import Fitted
from cld_core.tune.linear import of_exponential, spaced, with_memory
from cld_core.tune.tuning import CANDIDATES, SPACINGS

EPS = 1e-3


def least(nfe, points, numbers):
    return cost.least_bytes(CLD(), nfe, points, numbers, eps=EPS, denoise=True)


def test_it_is_what_the_copies_of_the_last_step_take(monkeypatch):
    """The network is asked for as many copies in the last step as are counted."""
    asked = []

    def alpha(self, u, t):
        asked.append(u.numel())
        return u[:, : u.shape[1] // 2]

    monkeypatch.setattr(Fitted, "alpha", alpha)
    sde, u = CLD(), torch.zeros(3, 20, dtype=torch.float64)
    linear = with_memory(of_exponential(sde, spaced(sde, 5, EPS, True, SPACINGS[0]), CANDIDATES[-1], True))
    derivatives.by_copies(Fitted(None, sde, 1000), linear, u, True)
    halves = 2 * sde.n + sde.m * max(map(len, linear.weights))
    assert least(5, points=3, numbers=10) == 8 * halves * max(asked) // sde.n


def test_few_numbers_take_their_slopes():
    sde = CLD()
    linear = with_memory(of_exponential(sde, spaced(sde, 5, EPS, True, SPACINGS[0]), CANDIDATES[-1], True))
    fitted, u = Fitted(lambda u, t: u[:, 2:], sde, 1000), torch.randn(3, 4, dtype=torch.float64)
    _, slopes = derivatives.by_backpropagation(fitted, linear, u, True)
    assert least(5, points=3, numbers=2) == 8 * slopes.numel()


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch):
    device, needed = torch.device("cpu"), least(10, points=16, numbers=3 * 256 * 256)
    assert cost.total(device) > 0
    monkeypatch.setattr(cost, "total", lambda device: needed)
    cost.require(needed, 16, device)
    monkeypatch.setattr(cost, "total", lambda device: needed * 3 // 4)
    with pytest.raises(UsageError, match=rf"at least {needed:,} bytes .* Tune with --points 12 or fewer"):
        cost.require(needed, 16, device)
    monkeypatch.setattr(cost, "total", lambda device: needed // 4)
    with pytest.raises(UsageError, match=r"there are [0-9,]+\. Ask for fewer evaluations\."):
        cost.require(needed, 16, device)
