"""The background of toy pictures."""

from dataclasses import replace

import pytest
import torch

from cld_core.analytic import GaussianMixture
from cld_core.data import toy
from cld_core.evaluation.planes import shade_of

# Right of the middle and below it.
LAW = GaussianMixture(torch.tensor([[2.0, -1.0]]), 0.3)
KNOWN = replace(toy.get("gaussian"), log_density=LAW.log_density, on_grid=LAW.density_on_grid)


@pytest.mark.parametrize("density", [KNOWN, replace(KNOWN, on_grid=None)], ids=["grid", "points"])
def test_a_row_is_a_line_of_equal_height(density):
    x, y = torch.linspace(-3, 3, 25, dtype=torch.float64), torch.linspace(-2, 2, 17, dtype=torch.float64)
    shade = torch.from_numpy(shade_of(density, x, y))
    assert shade.shape == (17, 25)
    row, column = divmod(int(shade.argmax()), 25)
    assert (float(x[column]), float(y[row])) == (2.0, -1.0)
    assert float(shade.max()) == 1.0
    expected = torch.exp(-0.25 * ((x[None] - 2.0) ** 2 + (y[:, None] + 1.0) ** 2) / 0.3**2)
    torch.testing.assert_close(shade, expected, rtol=1e-10, atol=1e-12)


def test_what_is_not_known_is_not_drawn():
    assert shade_of(replace(KNOWN, on_grid=None, log_density=None), torch.zeros(2), torch.zeros(2)) is None
