"""The sliced distance against cases with a closed form."""

import math

import pytest
import torch

from cld_core.evaluate.toy import sliced_w2
from cld_core.seeds import generator

POINTS = torch.randn(500, 2, generator=generator("w2"), dtype=torch.float64)


def test_a_shift_is_its_length_over_the_root_of_two():
    """Along a direction e the distance is |d . e|, and the mean of cos^2 over equally spaced directions is 1/2."""
    assert sliced_w2(POINTS, POINTS + torch.tensor([0.3, -0.4])) == pytest.approx(0.5 / math.sqrt(2.0), rel=1e-7)


def test_a_scaled_normal_law_is_as_far_as_its_standard_deviations():
    """W2 of N(0, s^2) and N(0, (c s)^2) is |c - 1| s; here s^2 is the sample's, averaged over directions."""
    std = float(POINTS.square().sum(1).mean() / 2.0) ** 0.5
    assert sliced_w2(POINTS, 1.7 * POINTS) == pytest.approx(0.7 * std, rel=1e-12)


def test_it_knows_no_order_and_is_symmetric():
    other = torch.randn(500, 2, generator=generator("other"), dtype=torch.float64)
    shuffled = POINTS[torch.randperm(500, generator=generator("order"))]
    assert sliced_w2(POINTS, shuffled) == 0.0
    assert sliced_w2(POINTS, other) == sliced_w2(other, POINTS) > 0


@pytest.mark.parametrize("directions", [1, 7])
def test_one_direction_is_the_first_axis(directions):
    moved = POINTS + torch.tensor([0.0, 1.0])
    expected = 0.0 if directions == 1 else math.sqrt(0.5)
    assert sliced_w2(POINTS, moved, directions) == pytest.approx(expected, abs=1e-12)
