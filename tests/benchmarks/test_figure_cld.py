"""The figure of docs/learn/cld.md shows what the page says of it."""

import pytest
import torch

from benchmarks import figure_cld
from cld_core import sde
from cld_core.config.sde import CldSpec, VpsdeSpec

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


def test_the_figure_is_drawn() -> None:
    assert [axes.get_title() for axes in figure_cld.figure().axes][-1] == "What the network has to match"
