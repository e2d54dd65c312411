"""The forward process from a time to a later one."""

import pytest
import torch

from cld_core.sde import CLD, HOLD, PSLD, VPSDE
from tests.support.numeric import BothScored, ThirdOrder

EXACT = {"numerical_eps": 0.0}
SDES = [
    *(CLD(**EXACT), CLD(beta0=0.1, beta1=10.0, **EXACT), PSLD(**EXACT), HOLD(**EXACT)),
    *(VPSDE(), BothScored(), ThirdOrder()),
]


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize(("start", "end"), [(0.3, 0.7), (0.3, 0.301), (1e-3, 1.0)])
def test_two_steps_are_the_kernel_of_one(sde, start, end):
    """Of a mean map and a covariance with columns of the identity as states and as noise."""
    n = sde.n
    rows = torch.cat([torch.zeros(1, n), torch.eye(n)]).double()
    none = torch.zeros_like(rows)
    step = sde.forward(rows, none, start, end)[1:].T
    factor = sde.forward(none, rows, start, end)[1:].T
    before, after = (sde.factor(t) for t in (start, end))
    torch.testing.assert_close(step @ sde.mean(start), sde.mean(end), rtol=1e-10, atol=1e-12)
    covariance = step @ before @ before.T @ step.T + factor @ factor.T
    torch.testing.assert_close(covariance, after @ after.T, rtol=1e-9, atol=1e-12)
