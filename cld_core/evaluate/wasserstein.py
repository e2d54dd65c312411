"""The sliced 2-Wasserstein distance between sets of points in the plane (docs/evaluation.md)."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

DIRECTIONS = 64


def projections(points: Tensor, directions: int = DIRECTIONS) -> Tensor:
    """Points (n, 2) projected on equally spaced directions and sorted along each: (n, directions), float64."""
    angle = torch.arange(directions, dtype=torch.float64) * (math.pi / directions)
    return (points.double() @ torch.stack([angle.cos(), angle.sin()])).sort(0).values


def distance(a: Tensor, b: Tensor) -> float:
    """The distance between two sets of n points each, from their `projections`.

    In one dimension, the best plan of transport pairs the sorted points, so that nothing is approximated except for the
    integral over directions.
    """
    return float((a - b).square().mean(0).mean().sqrt())


def from_sets(
    points: Tensor, sets: Sequence[Tensor], directions: int = DIRECTIONS
) -> tuple[float, npt.NDArray[np.float64]]:
    """The mean distance of points (n, 2) from sets of as many, and the distances of each pair of these.

    Without points, the first is infinite.
    """
    others = [projections(one, directions) for one in sets]
    between = np.array([distance(a, b) for a, b in itertools.combinations(others, 2)])
    if not len(points):
        return math.inf, between
    ours = projections(points, directions)
    return float(np.mean([distance(ours, one) for one in others])), between


def sliced_w2(a: Tensor, b: Tensor, directions: int = DIRECTIONS) -> float:
    """The distance between two sets (n, 2): the root of the squared W2 of their projections, averaged."""
    return distance(projections(a, directions), projections(b, directions))
