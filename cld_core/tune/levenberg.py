"""One iteration of the Levenberg-Marquardt method for weighted least squares."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FIRST_DAMPING = 1e-2
_LEAST_DAMPING, _EASE, _STIFFEN = 1e-8, 0.2, 8.0
# The most changes that an iteration tries, each with more damping.
TRIALS = 8
# Examples whose errors exceed this many times the median count less and less.
_USUAL = 10.0


@dataclass(frozen=True)
class Point:
    """Parameters (P,), and the damping of the next iteration."""

    parameters: Tensor
    damping: float = FIRST_DAMPING


def advanced(
    point: Point,
    residual: Callable[[Tensor], Tensor],
    linearised: Callable[[Tensor], tuple[Tensor, Tensor]],
    *,
    robust: bool,
) -> Point:
    """The next point: parameters of a smaller sum of squares, or the same with more damping.

    Args:
        residual: errors (B, D) for parameters (P,).
        linearised: the same, and their derivatives (P, B, D).
        robust: give less weight to outliers, such as examples that end in another mode.
    """
    errors, slopes = linearised(point.parameters)
    if not (torch.isfinite(errors).all() and torch.isfinite(slopes).all()):
        return Point(point.parameters, point.damping * _STIFFEN)
    weights = weights_of(errors) if robust else torch.ones(len(errors), dtype=errors.dtype, device=errors.device)
    root = weights.sqrt()[:, None]
    flat = (slopes * root).flatten(1)
    gradient, curvature = flat @ (errors * root).flatten(), flat @ flat.T
    diagonal = curvature.diagonal()
    scale = diagonal + 1e-10 * diagonal.max()
    cost, damping = _cost(errors, weights), point.damping
    for _ in range(TRIALS):
        # A singular system gives numbers that are not finite.
        change, _ = torch.linalg.solve_ex(curvature + damping * torch.diag(scale), gradient)
        moved = point.parameters - change
        if torch.isfinite(moved).all() and _cost(residual(moved), weights) < cost:
            return Point(moved, max(damping * _EASE, _LEAST_DAMPING))
        damping *= _STIFFEN
    return Point(point.parameters, damping)


def weights_of(errors: Tensor) -> Tensor:
    """(B,): near 1 for examples with usual errors (B, D), and small for those far from the median."""
    square = errors.square().mean(1)
    return 1.0 / (1.0 + square / (_USUAL**2 * square.median()).clamp(min=torch.finfo(square.dtype).tiny))


def _cost(errors: Tensor, weights: Tensor) -> float:
    """Infinite where an error is not finite."""
    cost = float((weights * errors.square().mean(1)).mean())
    return cost if cost == cost else float("inf")
