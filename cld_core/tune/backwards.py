"""Derivatives of the samples of a linear sampler with respect to its times and coefficients, by backpropagation.

One backward pass for each coordinate of x gives an example's derivatives with respect to what is added to u after each
step. Those with respect to the coefficients are products of these with the factors of the coefficients. So a point in
the plane costs two passes, however many parameters there are, and no finite differences of a float32 network are taken
(except for the times). For images, which have more coordinates than a sampler has parameters,
`differences.linearised` costs less.
"""

import torch
from torch import Tensor

from cld_core.samplers.halves import rest
from cld_core.sde import Diffusion

from .differences import Fitted, is_free, split
from .linear import MOST_MEMORY, Linear

# The most coordinates of an example for which one pass each is worth it.
MOST_NUMBERS = 8
# Step of the central difference in the logarithm of a time.
_STEP = 3e-4
# Evaluations for the derivative by a time.
PER_TIME = 2


def suits(numbers: int) -> bool:
    """Whether this method is the cheaper one for examples of so many coordinates."""
    return numbers <= MOST_NUMBERS


def linearised(fitted: Fitted, linear: Linear, u: Tensor, denoise: bool) -> tuple[Tensor, Tensor]:
    """As `differences.linearised`; the score is differentiated with respect to u."""
    parts = []
    for first in range(0, len(u), fitted.at_once):
        part = u[first : first + fitted.at_once]
        parts.append(_linearised(fitted.for_points(first, first + len(part)), linear, part, denoise))
    return torch.cat([x for x, _ in parts]), torch.cat([slopes for _, slopes in parts], 1)


@torch.enable_grad()
def _linearised(fitted: Fitted, linear: Linear, u: Tensor, denoise: bool) -> tuple[Tensor, Tensor]:
    sde, count = fitted.sde, len(linear.times)
    history, sources, added = list[Tensor](), list[Tensor](), list[Tensor]()
    shifts: dict[int, Tensor] = {}  # of log t, (B,), by the number of the step
    for number, t in enumerate(linear.times.tolist()):
        alpha = _alpha(fitted, u, t)
        if is_free(number, count, denoise):
            shifts[number] = u.new_zeros(len(u), requires_grad=True)
            alpha = alpha + torch.einsum("b,b...->b...", shifts[number], _by_log_time(fitted, u.detach(), t))
        history.insert(0, split(alpha, sde.m))
        weights = linear.weights[number]
        source = torch.cat([split(u, sde.n), *history[: len(weights)]], 1)
        matrix = torch.cat([linear.transitions[number], *weights], 1)
        sources.append(source.detach().flatten(2))
        added.append(torch.zeros_like(u, requires_grad=True))
        u = torch.einsum("ij,bj...->bi...", matrix, source).flatten(1, 2) + added[-1]
    x = split(u, sde.n)[:, 0]
    numbers = x.flatten(1).sum(0)
    passes = [torch.autograd.grad(one, [*added, *shifts.values()], retain_graph=True) for one in numbers]
    fitted.count(len(u) * count * len(passes))
    columns = [torch.stack(column, -1) for column in zip(*passes, strict=True)]
    by_shift = dict(zip(shifts, columns[count:], strict=True))
    slopes = []
    for number, (by_added, source) in enumerate(zip(columns[:count], sources, strict=True)):
        if number in by_shift:
            slopes.append(by_shift[number][None])
        rows = 1 if number == count - 1 else sde.n
        by_row = split(by_added, sde.n)[:, :rows].flatten(2, -2)  # (B, rows, C..., D)
        fitted_weights = len(linear.weights[number][:MOST_MEMORY])
        # In the order of `packed`, which has the matrices one after another, row by row.
        for part in source[:, : sde.n + sde.m * fitted_weights].split((sde.n, *[sde.m] * fitted_weights), 1):
            slopes.append(torch.einsum("brcd,bjc->rjbd", by_row, part).flatten(0, 1))
    return x.detach(), torch.cat(slopes).unflatten(2, x.shape[1:])


def _alpha(fitted: Fitted, u: Tensor, t: float) -> Tensor:
    """`halves.rest`, which works in place, in a differentiable form: it is linear in s and u."""
    sde = fitted.sde
    by_score, by_u = _rest(sde, t)
    fitted.count(len(u))
    score = split(fitted.score(u, t), sde.m)
    parts = [torch.einsum("ij,bj...->bi...", by_score.to(u), score)]
    parts.append(torch.einsum("ij,bj...->bi...", by_u.to(u), split(u, sde.n)))
    return (parts[0] + parts[1]).flatten(1, 2)


def _rest(sde: Diffusion, t: float) -> tuple[Tensor, Tensor]:
    """The matrices of `halves.rest`: of the score (m, m) and of u (m, n), from its images of unit vectors."""
    units = torch.eye(sde.m + sde.n, dtype=torch.float64)
    score, u = units[:, : sde.m].contiguous(), units[:, sde.m :].contiguous()
    images = rest(lambda _, __: score, sde, u, t).T
    return images[:, : sde.m], images[:, sde.m :]


@torch.no_grad()
def _by_log_time(fitted: Fitted, u: Tensor, t: float) -> Tensor:
    return (fitted.alpha(u, t * (1.0 + _STEP)) - fitted.alpha(u, t * (1.0 - _STEP))) / (2.0 * _STEP)
