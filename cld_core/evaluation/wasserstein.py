"""The sliced 2-Wasserstein distance between sets of points in the plane (docs/evaluation.md)."""

import math

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


def sliced_w2(a: Tensor, b: Tensor, directions: int = DIRECTIONS) -> float:
    """The distance between two sets (n, 2): the root of the squared W2 of their projections, averaged."""
    return distance(projections(a, directions), projections(b, directions))
