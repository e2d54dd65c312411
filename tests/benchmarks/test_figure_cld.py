"""The figure of docs/learn/cld.md shows what the page says of it."""

import pytest
import torch

from benchmarks import figure_cld
from cld_core import sde
from cld_core.recipe.sde import CldSpec, VpsdeSpec

CLD, VPSDE = sde.build(CldSpec()), sde.build(VpsdeSpec())


def roughness(path: torch.Tensor) -> float:
    """Sum of the squared increments of paths (T, n): falls with the step of a smooth path, stays for a diffusion."""
    return float((path[1:] - path[:-1]).square().sum(0).mean())


def test_x_of_cld_is_smooth_and_the_halves_with_noise_are_not() -> None:
    cld = figure_cld.paths(CLD, torch.Generator().manual_seed(0))
    vpsde = figure_cld.paths(VPSDE, torch.Generator().manual_seed(0))
    # Of a diffusion, the integral of the squared coefficient: 2 Gamma beta = 8, and the mean of beta = 10.05.
    assert roughness(cld[:, 0]) < 0.1
    assert roughness(cld[:, 1]) == pytest.approx(8, rel=0.2)
    assert roughness(vpsde[:, 0]) == pytest.approx(10.05, rel=0.2)


@pytest.mark.parametrize(("diffusion", "half"), [(CLD, 0), (CLD, 1), (VPSDE, 0)])
def test_densities_integrate_to_one_and_end_as_the_prior(diffusion: sde.Diffusion, half: int) -> None:
    grid = torch.linspace(-8, 8, 8001, dtype=torch.float64)
    for t in (0.01, 0.3, 1.0):
        density = figure_cld.marginal(diffusion, t, half, grid)
        assert float(density.sum() * (grid[1] - grid[0])) == pytest.approx(1, abs=1e-6)
    variance = float((density * grid**2).sum() * (grid[1] - grid[0]))
    assert variance == pytest.approx(diffusion.prior_std[half] ** 2, rel=0.02)


def test_the_figure_is_drawn() -> None:
    assert [axes.get_title() for axes in figure_cld.figure().axes][-1] == "What the network has to match"
