"""Matrices of floats applied to image-sized halves, and the split of the score that two samplers share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.rows import inverse, negated

Matrix = Sequence[Sequence[float]]


def linear(matrix: Matrix, u: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The square matrix applied to the parts of u, written to ``out`` or a new tensor; u is not changed."""
    out = torch.empty_like(u) if out is None else out
    first, *others = u.chunk(len(matrix), dim=1)
    for target, (factor, *factors) in zip(out.chunk(len(matrix), dim=1), matrix, strict=True):
        torch.mul(first, factor, out=target)
        for part, other in zip(others, factors, strict=True):
            target.add_(part, alpha=other)
    return out


def add(u: Tensor, matrix: Matrix, w: Tensor) -> None:
    """u += matrix w, in place, for u (B, kC, ...), a matrix (k, j) and w (B, jC, ...)."""
    parts = w.chunk(len(matrix[0]), dim=1)
    for target, row in zip(u.chunk(len(matrix), dim=1), matrix, strict=True):
        for part, factor in zip(parts, row, strict=True):
            target.add_(part, alpha=factor)


def rest(score: ScoreFunction, sde: Diffusion, u: Tensor, t: float) -> Tensor:
    """alpha := -E^-1 (s + K u_S) at u and t, (B, mC, ...): the score without its known part (docs/math.md 7.2)."""
    whole = score(u, t).clone()
    add(whole, sde.known_precision(t), sde.scored(u))
    return linear(negated(inverse(sde.target(t))), whole)


def score_from_rest(alpha: Tensor, sde: Diffusion, u: Tensor, t: float) -> Tensor:
    """The score s = -E alpha - K u_S, (B, mC, ...)."""
    score = linear(negated(sde.target(t)), alpha)
    add(score, negated(sde.known_precision(t)), sde.scored(u))
    return score
