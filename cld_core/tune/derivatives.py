"""The samples of a linear sampler, and their derivatives with respect to its times and coefficients.

There are two ways, because the cheaper one depends on the number of coordinates of an example (docs/math.md section
7.5 has measurements). `by_copies`: one pass of the sampler carries, beside the samples, a copy of them for each
parameter so far, which has been changed by a small amount in this copy. A parameter of step i costs nothing before that
step, and the copies of a step are evaluated together. `by_backpropagation`: one backward pass for each coordinate of x
gives an example's derivatives with respect to what is added to u after each step. Those with respect to the
coefficients are products of these with the factors of the coefficients. So a point in the plane costs two passes,
however many parameters there are, and no finite differences of a float32 network are taken (except for the times).
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.guidance import Guided
from cld_core.samplers.split import rest
from cld_core.score import ScoreFunction, for_rows
from cld_core.sde import Diffusion

from .linear import Linear, is_free, split

# The most coordinates of an example for which one backward pass each is worth it.
MOST_NUMBERS = 8
# The change of a coefficient, or of the logarithm of a time, in a copy. Later steps amplify it. A larger one would be
# affected by the curvature of the flow, a smaller one by the rounding of a float32 network, 1e-7 of alpha.
STEP = 1e-5
# Of the central difference in the logarithm of a time, beside backpropagation, and its evaluations.
_TIME_STEP = 3e-4
PER_TIME = 2


@dataclass(frozen=True)
class Fitted:
    """A score to which a sampler is fitted. Evaluations are counted, and batched by at most ``at_once`` examples.

    Attributes:
        count: called with the number of evaluations of the network; guidance takes two at the times at which it acts.
        points: it is evaluated for copies of so many points, or of as many others with the same labels: row i belongs
            to point i modulo ``points``.
    """

    score: ScoreFunction
    sde: Diffusion
    at_once: int
    count: Callable[[int], object] = lambda examples: None
    points: int = 1

    def alpha(self, u: Tensor, t: float) -> Tensor:
        """`split.rest` of u (B, nC, ...)."""
        rows = torch.arange(len(u), device=u.device) % self.points
        alphas = []
        for part, which in zip(u.split(self.at_once), rows.split(self.at_once), strict=True):
            score = for_rows(self.score, which)
            self.count(len(part) * (score.networks(t) if isinstance(score, Guided) else 1))
            alphas.append(rest(score, self.sde, part, t))
        return torch.cat(alphas)

    def for_points(self, first: int, last: int) -> "Fitted":
        """The same for the points ``first <= i < last`` only."""
        score = for_rows(self.score, torch.arange(first, last))
        return dataclasses.replace(self, score=score, points=last - first)


def samples(fitted: Fitted, linear: Linear, u: Tensor) -> Tensor:
    """x (B, C, ...) at the end, from the prior's draw u."""
    linear, history = linear.to(u), list[Tensor]()
    for t, transition, weights in zip(linear.times.tolist(), linear.transitions, linear.weights, strict=True):
        history.insert(0, fitted.alpha(u, t))
        u = _next(fitted.sde, u, transition, weights, history)
    return fitted.sde.halves(u)[0]


def linearised(fitted: Fitted, linear: Linear, u: Tensor, denoise: bool) -> tuple[Tensor, Tensor]:
    """x (B, C, ...) at the end, and its derivatives (P, B, C, ...) with respect to the parameters (`linear.packed`)."""
    way = by_backpropagation if backpropagates(u[0].numel() // fitted.sde.n) else by_copies
    return way(fitted, linear, u, denoise)


def backpropagates(numbers: int) -> bool:
    """Whether backpropagation is the cheaper way for examples of so many coordinates."""
    return numbers <= MOST_NUMBERS


def by_copies(fitted: Fitted, linear: Linear, u: Tensor, denoise: bool) -> tuple[Tensor, Tensor]:
    """As `linearised`, by differences."""
    sde, linear, count = fitted.sde, linear.to(u), len(linear.times)
    memory = max(map(len, linear.weights))
    copies, history = u[None], list[Tensor]()  # (1 + P so far, B, ...)
    for number, t in enumerate(linear.times.tolist()):
        transition, weights = linear.transitions[number], linear.weights[number]
        history.insert(0, fitted.alpha(copies.flatten(0, 1), t).unflatten(0, copies.shape[:2]))
        del history[memory:]
        if is_free(number, count, denoise):
            later = fitted.alpha(copies[0], t * (1.0 + STEP))[None]
            copies = torch.cat([copies, copies[:1]])
            history = [torch.cat([history[0], later]), *(torch.cat([alpha, alpha[:1]]) for alpha in history[1:])]
        flat = [alpha.flatten(0, 1) for alpha in history]
        after = _next(sde, copies.flatten(0, 1), transition, weights, flat).unflatten(0, copies.shape[:2])
        factors = [copies[0], *(alpha[0] for alpha in history[: linear.fitted_weights(number)])]
        changed = _changed(sde, after[0], factors, linear.rows(number))
        history = [torch.cat([alpha, alpha[:1].expand(len(changed), *alpha.shape[1:])]) for alpha in history]
        copies = torch.cat([after, changed])
    x = copies.narrow(2, 0, copies.shape[2] // sde.n)
    return x[0], (x[1:] - x[0]) / STEP


def _next(sde: Diffusion, u: Tensor, transition: Tensor, weights: Tensor, history: Sequence[Tensor]) -> Tensor:
    parts = torch.einsum("ij,bj...->bi...", transition, split(u, sde.n))
    for weight, alpha in zip(weights, history, strict=False):
        parts = parts + torch.einsum("ij,bj...->bi...", weight, split(alpha, sde.m))
    return parts.flatten(1, 2)


def _changed(sde: Diffusion, after: Tensor, factors: Sequence[Tensor], rows: int) -> Tensor:
    """Copies of ``after`` (B, nC, ...), for each of which one entry of transition or weights was changed by `STEP`.

    Args:
        factors: u, and the alphas that have weights.
        rows: of the matrices that are parameters.
    """
    changed = []
    for factor, halves in zip(factors, [sde.n, *[sde.m] * len(factors)], strict=False):
        for row in range(rows):
            for column in split(factor, halves).unbind(1):
                one = split(after, sde.n).clone()
                one[:, row] += STEP * column
                changed.append(one.flatten(1, 2))
    return torch.stack(changed)


def by_backpropagation(fitted: Fitted, linear: Linear, u: Tensor, denoise: bool) -> tuple[Tensor, Tensor]:
    """As `linearised`; the score is differentiated with respect to u."""
    parts = []
    for first in range(0, len(u), fitted.at_once):
        part = u[first : first + fitted.at_once]
        parts.append(_backwards(fitted.for_points(first, first + len(part)), linear, part, denoise))
    return torch.cat([x for x, _ in parts]), torch.cat([slopes for _, slopes in parts], 1)


@torch.enable_grad()
def _backwards(fitted: Fitted, linear: Linear, u: Tensor, denoise: bool) -> tuple[Tensor, Tensor]:
    sde, linear, count = fitted.sde, linear.to(u), len(linear.times)
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
        by_row = split(by_added, sde.n)[:, : linear.rows(number)].flatten(2, -2)  # (B, rows, C..., D)
        halves = [sde.n, *[sde.m] * linear.fitted_weights(number)]
        # In the order of `linear.packed`, which has the matrices one after another, row by row.
        for part in source[:, : sum(halves)].split(halves, 1):
            slopes.append(torch.einsum("brcd,bjc->rjbd", by_row, part).flatten(0, 1))
    return x.detach(), torch.cat(slopes).unflatten(2, x.shape[1:])


def _alpha(fitted: Fitted, u: Tensor, t: float) -> Tensor:
    """`split.rest`, which works in place, in a differentiable form: it is linear in s and u."""
    sde = fitted.sde
    units = torch.eye(sde.m + sde.n, dtype=torch.float64)
    of_score, of_u = units[:, : sde.m].contiguous(), units[:, sde.m :].contiguous()
    images = rest(lambda _, __: of_score, sde, of_u, t).T.to(u)
    fitted.count(len(u))
    parts = torch.cat([split(fitted.score(u, t), sde.m), split(u, sde.n)], 1)
    return torch.einsum("ij,bj...->bi...", images, parts).flatten(1, 2)


@torch.no_grad()
def _by_log_time(fitted: Fitted, u: Tensor, t: float) -> Tensor:
    return (fitted.alpha(u, t * (1.0 + _TIME_STEP)) - fitted.alpha(u, t * (1.0 - _TIME_STEP))) / (2.0 * _TIME_STEP)
