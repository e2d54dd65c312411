import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from cld_core.errors import SolverError
from cld_core.solver import solve
from tests.support.waits import Waits


def pendulum(t, y, rows):
    return torch.stack([y[:, 1], -torch.sin(3.0 * y[:, 0]) - 0.2 * t * y[:, 1]], dim=1)


STARTS = torch.tensor(
    [[0.1, 0.0], [2.0, -1.0], [0.5, 7.0], [-30.0, 11.0], [0.0, 0.0]], dtype=torch.float64
)


@pytest.mark.parametrize("span", [(0.0, 3.0), (1.0, 1e-3)])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-9])
def test_every_row_takes_scipys_steps(span, tolerance):
    ours = solve(pendulum, STARTS, *span, rtol=tolerance, atol=tolerance)
    for i, start in enumerate(STARTS):

        def field(t, y):
            return pendulum(t, torch.from_numpy(y)[None], None)[0].numpy()

        y0 = start.numpy()
        theirs = solve_ivp(field, span, y0, method="RK45", rtol=tolerance, atol=tolerance)
        assert int(ours.nfe[i]) == theirs.nfev
        # An error estimate that happens to be nearly 0 hands the processor's rounding on to the
        # next step's size.
        close = max(1e-9, 1e-5 * tolerance)
        np.testing.assert_allclose(
            ours.y[i].numpy(), theirs.y[:, -1], rtol=close, atol=1e-2 * close
        )


def test_rows_that_are_done_wait_until_enough_others_are():
    """Then the batch becomes one of a few sizes, since libraries prepare for each."""
    rates = torch.linspace(1.0, 60.0, 100, dtype=torch.float64)
    sizes = []

    def field(t, y, rows):
        sizes.append(len(y))
        assert len(t) == len(rows) == len(y)
        return -rates[rows, None] * (y - torch.cos(rates[rows] * t)[:, None])

    together = solve(field, torch.ones(100, 1, dtype=torch.float64), 0.0, 1.0, rtol=1e-6, atol=1e-6)
    assert sizes[0] == 100
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) <= 16 + 3 * 8, "every size up to 16, then eight to each doubling"
    assert sum(sizes) < 1.1 * int(together.nfe.sum())
    for i in (0, 40, 99):

        def own(t, y, rows, i=i):
            return field(t, y, rows + i)

        alone = solve(own, torch.ones(1, 1), 0.0, 1.0, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(together.y[i], alone.y[0], rtol=1e-12, atol=0)
        assert int(together.nfe[i]) == int(alone.nfe[0])


def test_the_host_waits_for_the_device_once_per_step(monkeypatch):
    """On a GPU it would otherwise launch nothing while it waits."""
    steps = []

    def prepare(times):
        steps.append(len(waits.names))
        return times.unbind()

    with Waits() as waits:
        waits.watch_reading(monkeypatch)
        solve(pendulum, STARTS, 0.0, 3.0, rtol=1e-6, atol=1e-6, prepare=prepare)
    # The first two calls are for the first step size, which is checked before the first step.
    _, _, first, *later = [*steps, len(waits.names)]
    assert first <= 3
    assert len(later) > 10
    assert later == [first + k for k in range(1, len(later) + 1)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_field_that_is_not_finite_is_named(bad):
    def field(t, y, rows):
        return torch.where(t[:, None] > 0.5, bad, y)

    with pytest.raises(SolverError, match=r"row 0 is at t = 0\.\d+.*Raise rtol and atol"):
        solve(field, torch.ones(2, 1), 0.0, 1.0, rtol=1e-5, atol=1e-5)


def test_the_number_of_steps_is_bounded():
    with pytest.raises(SolverError, match="3 steps are not enough"):
        solve(pendulum, STARTS, 0.0, 30.0, rtol=1e-8, atol=1e-8, max_steps=3)
