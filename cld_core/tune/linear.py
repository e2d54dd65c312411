"""Linear samplers: those that a fit starts from, their parameters, and derivatives of their samples by these.

There are two ways to the derivatives, because the cheaper one depends on the number of coordinates of an example
(docs/math.md section 7.5 has measurements). `by_copies`: for each parameter of a step, a copy of the samples is changed
by a small amount there and taken to the end; the copies of a step are evaluated together. `by_backpropagation`: one
backward pass for each coordinate of x gives an example's derivatives with respect to what is added to u after each
step. Those with respect to the coefficients are products of these with the factors of the coefficients. So a point in
the plane costs two passes, however many parameters there are, and no finite differences of a float32 network are taken
(except for the times).
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.guidance import Guided
from cld_core.samplers import exponential
from cld_core.samplers.path import rest, score_from_rest
from cld_core.samplers.tuned import Linear, follow, stepped
from cld_core.score import ScoreFunction, for_rows
from cld_core.sde import Diffusion, Schedule

# How many of the newest alphas have weights in every fit, and in one from order 3 with the corrector. Weights of older
# ones, which a solution of fewer evaluations leads to, stay as they are.
MEMORY, MOST_MEMORY = 4, 5
# Times are spread in B(t)^(1/6), in which the recommended grid is uniform.
_POWER = 6.0
# The most coordinates of an example for which one backward pass each is worth it.
_MOST_NUMBERS = 8
# Larger examples are copied for so many of them at a time, which bounds the memory.
_COPIED_AT_ONCE = 16
# The change of a coefficient, or of the logarithm of a time, in a copy. Later steps amplify it. A larger one would be
# affected by the curvature of the flow, a smaller one by the rounding of a float32 network, 1e-7 of alpha.
_STEP = 1e-5
# Of the central difference in the logarithm of a time, beside backpropagation.
_TIME_STEP = 3e-4


def spaced(sde: Diffusion, nfe: int, eps: float, denoise: bool, spacing: str) -> list[float]:
    """The times of one of `tuning.SPACINGS`, the end included."""
    name, _, power = spacing.partition(" ")
    return sde.schedule.grid(name, nfe - denoise, eps, float(power or 1.0))


def of_exponential(sde: Diffusion, times: Sequence[float], order: int, corrector: bool, denoise: bool) -> Linear:
    """The exponential sampler over a grid, without noise, in linear form.

    The corrector's change of u becomes part of the next step.

    Args:
        times: the grid, its end included.
    """
    steps = exponential.steps(sde, tuple(times), order, corrector, 0.0)
    parts = [(step.transition, step.predictor) for step in steps]
    if denoise:
        parts.append(_denoising(sde, times[-1]))
    matrices, correction = [], torch.zeros(0, sde.n, sde.m, dtype=torch.float64)
    for number, (transition, predictor) in enumerate(parts):
        corrected = transition @ correction
        weights = predictor.new_zeros(max(len(predictor), len(corrected)), sde.n, sde.m)
        weights[: len(predictor)] += predictor
        weights[: len(corrected)] += corrected
        matrices.append(torch.cat([transition, *weights[: number + 1]], dim=1))
        if number < len(steps):
            correction = steps[number].correction
    evaluated = times if denoise else times[:-1]
    return Linear(torch.tensor(evaluated, dtype=torch.float64), tuple(matrices))


def _denoising(sde: Diffusion, eps: float) -> tuple[Tensor, Tensor]:
    """The matrices of the denoising step, of u (n, n) and of the last alpha (1, n, m), from images of unit vectors."""
    units = torch.eye(sde.n + sde.m, dtype=torch.float64)
    u, alpha = units[:, : sde.n].contiguous(), units[:, sde.n :].contiguous()
    images = sde.euler_step(u, score_from_rest(alpha, sde, u, eps), eps, eps).T
    return images[:, : sde.n], images[None, :, sde.n :]


def with_memory(linear: Linear) -> Linear:
    """The same sampler with weights for all alphas that every fit uses."""
    n, first = linear.matrices[0].shape
    each = (n + (first - n) * min(number, MEMORY) for number in range(1, len(linear.matrices) + 1))
    padded = (
        torch.nn.functional.pad(matrix, (0, max(0, columns - matrix.shape[1])))
        for matrix, columns in zip(linear.matrices, each, strict=True)
    )
    return Linear(linear.times, tuple(padded))


def extended(linear: Linear, sde: Diffusion, nfe: int, eps: float, denoise: bool) -> Linear:
    """The same sampler with more evaluations, ``nfe`` in all: its samples are the same to rounding.

    The step that is the longest in B(t)^(1/6) is divided: the exponential sampler of order 0 leads to its middle, and
    the rest of the step from there to where it led before. What is evaluated in the middle has no weight yet.
    """
    while len(linear.times) < nfe:
        linear = _divided(linear, sde, eps, denoise)
    return linear


def _divided(linear: Linear, sde: Diffusion, eps: float, denoise: bool) -> Linear:
    n = sde.n
    times = linear.times.tolist()
    matrices = list(linear.matrices)
    spread = places(sde.schedule, times if denoise else [*times, eps])
    number = int((spread[:-1] - spread[1:]).argmax())
    middle = sde.schedule.time(float(spread[number : number + 2].mean()) ** _POWER)
    (first,) = of_exponential(sde, (times[number], middle), 1, False, False).matrices
    last = matrices[number].clone()
    last[:, :n] @= torch.linalg.inv(first[:, :n])
    last[:, n : n + sde.m] -= last[:, :n] @ first[:, n:]
    for step, old in enumerate([last, *matrices[number + 1 :]]):
        # The new alpha comes after those of the steps from `number` + 1 to this one.
        at = n + sde.m * step
        if old.shape[1] > at:
            old = torch.cat([old[:, :at], old.new_zeros(n, sde.m), old[:, at:]], dim=1)
        matrices[number + step] = old
    matrices.insert(number, first)
    times.insert(number + 1, middle)
    return Linear(torch.tensor(times, dtype=torch.float64), tuple(matrices))


def free(linear: Linear, denoise: bool) -> range:
    """The steps whose times are parameters: not the first, at t = 1, nor denoising, at eps."""
    return range(1, len(linear.times) - denoise)


def blocks(linear: Linear) -> Iterator[Tensor]:
    """What is fitted of the matrix of each step, a view: of its newest alphas, and of the last step the row of x."""
    n, first = linear.matrices[0].shape
    for number, matrix in enumerate(linear.matrices, start=1):
        rows = 1 if number == len(linear.matrices) else n
        yield matrix[:rows, : n + (first - n) * MOST_MEMORY]


def packed(linear: Linear, denoise: bool) -> Tensor:
    """The parameters (P,): logarithms of the free times, then the `blocks`."""
    times = linear.times[list(free(linear, denoise))].log()
    return torch.cat([times, *(block.flatten() for block in blocks(linear))])


def unpacked(parameters: Tensor, like: Linear, denoise: bool, eps: float) -> Linear:
    """The sampler with these parameters; times are kept between eps and 1."""
    made = Linear(like.times.clone(), tuple(matrix.clone() for matrix in like.matrices))
    at, targets = list(free(like, denoise)), list(blocks(made))
    times, *parts = parameters.split([len(at), *(target.numel() for target in targets)])
    made.times[at] = times.exp().clamp(eps, 1.0)
    for target, part in zip(targets, parts, strict=True):
        target.copy_(part.view_as(target))
    return made


def places(schedule: Schedule, times: Sequence[float]) -> Tensor:
    """B(t)^(1/6) at each of the times."""
    return torch.tensor([schedule.integral(t) ** (1.0 / _POWER) for t in times], dtype=torch.float64)


def shares_of(schedule: Schedule, times: Sequence[float]) -> Tensor:
    """Parameters of a grid: logarithms of its steps relative to the last one, which is left out: (steps - 1,)."""
    steps = (-places(schedule, times).diff()).log()
    return steps[:-1] - steps[-1]


def times_of(schedule: Schedule, shares: Tensor, eps: float) -> list[float]:
    """The grid of such shares from 1 to ``eps``: the times decrease whatever the shares are."""
    first, last = places(schedule, (1.0, eps)).tolist()
    passed = torch.softmax(torch.cat([shares, shares.new_zeros(1)]), 0).cumsum(0)[:-1].tolist()
    return [1.0, *(schedule.time((first + (last - first) * share) ** _POWER) for share in passed), eps]


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

    def samples(self, linear: Linear, u: Tensor) -> Tensor:
        """x (B, C, ...) at the end, from the prior's draw u."""
        return self.sde.halves(follow(linear, self.sde, self.alpha, u))[0]

    def slopes(self, linear: Linear, u: Tensor, denoise: bool) -> Iterator[Tensor]:
        """The derivatives (P, b, C, ...) of the samples with respect to the parameters, for some rows after others."""
        few = u[0].numel() // self.sde.n <= _MOST_NUMBERS
        way, size = (by_backpropagation, self.at_once) if few else (by_copies, _COPIED_AT_ONCE)
        for rows in torch.arange(len(u)).split(size):
            fitted = dataclasses.replace(self, score=for_rows(self.score, rows), points=len(rows))
            yield way(fitted, linear, u[rows], denoise)


def by_copies(fitted: Fitted, linear: Linear, u: Tensor, denoise: bool) -> Tensor:
    """The derivatives (P, B, C, ...) of the samples by the parameters of `linear.packed`, from differences."""
    sde, passed, alphas = fitted.sde, [], list[Tensor]()
    for t, matrix in zip(linear.times.tolist(), linear.matrices, strict=True):
        alphas = [fitted.alpha(u, t), *alphas][: linear.memory]
        passed.append((t, matrix, u, alphas))
        u = stepped(sde, matrix, u, alphas)
    x, of_times, of_blocks = sde.halves(u)[0], [], []
    for number, ((t, matrix, u, alphas), block) in enumerate(zip(passed, blocks(linear), strict=True)):
        changed = split(stepped(sde, matrix, u, alphas), sde.n).repeat(*block.shape, *[1] * (u.ndim + 1))
        sources = _sources(sde, u, alphas)[:, : block.shape[1]].transpose(0, 1)
        for row, copies in enumerate(changed):
            copies[:, :, row] += _STEP * sources
        copies = changed.flatten(0, 2).flatten(1, 2)
        history = [alpha.repeat(block.numel(), *[1] * (alpha.ndim - 1)) for alpha in alphas]
        if number in free(linear, denoise):
            later = [fitted.alpha(u, t * (1.0 + _STEP)), *alphas[1:]]
            copies = torch.cat([copies, stepped(sde, matrix, u, later)])
            history = [torch.cat(pair) for pair in zip(history, later, strict=True)]
        ends = sde.halves(follow(linear, sde, fitted.alpha, copies, number + 1, history))[0]
        slopes = (ends.unflatten(0, (-1, len(u))) - x) / _STEP
        of_blocks.append(slopes[: block.numel()])
        of_times.append(slopes[block.numel() :])
    return torch.cat([*of_times, *of_blocks])


@torch.enable_grad()
def by_backpropagation(fitted: Fitted, linear: Linear, u: Tensor, denoise: bool) -> Tensor:
    """As `by_copies`; the score is differentiated with respect to u."""
    sde, alphas = fitted.sde, list[Tensor]()
    sources, added, shifts = list[Tensor](), list[Tensor](), list[Tensor]()
    for number, (t, matrix) in enumerate(zip(linear.times.tolist(), linear.matrices, strict=True)):
        alpha = fitted.alpha(u, t)
        if number in free(linear, denoise):
            shifts.append(u.new_zeros(len(u), *[1] * (u.ndim - 1), requires_grad=True))  # of log t
            alpha = alpha + shifts[-1] * _by_log_time(fitted, u.detach(), t)
        alphas = [alpha, *alphas][: linear.memory]
        sources.append(_sources(sde, u, alphas).detach().flatten(2))
        added.append(torch.zeros_like(u, requires_grad=True))
        u = stepped(sde, matrix, u, alphas) + added[-1]
    x = sde.halves(u)[0]
    passes = [
        torch.autograd.grad(one, [*shifts, *added], retain_graph=True, materialize_grads=True)
        for one in x.flatten(1).sum(0)
    ]
    fitted.count(len(u) * len(sources) * len(passes))
    columns = [torch.stack(column, -1) for column in zip(*passes, strict=True)]  # (B, ..., D)
    slopes = [column.flatten(1)[None] for column in columns[: len(shifts)]]
    for by_added, source, block in zip(columns[len(shifts) :], sources, blocks(linear), strict=True):
        rows, count = block.shape
        by_row = split(by_added, sde.n)[:, :rows].flatten(2, -2)  # (B, rows, C..., D)
        slopes.append(torch.einsum("brcd,bjc->rjbd", by_row, source[:, :count]).flatten(0, 1))
    return torch.cat(slopes).unflatten(2, x.shape[1:])


def split(u: Tensor, halves: int) -> Tensor:
    """(B, halves, C, ...), a view."""
    return u.unflatten(1, (halves, u.shape[1] // halves))


def _sources(sde: Diffusion, u: Tensor, alphas: list[Tensor]) -> Tensor:
    """What the columns of a step's matrix are multiplied by, (B, n + km, C, ...)."""
    return torch.cat([split(u, sde.n), *(split(alpha, sde.m) for alpha in alphas)], 1)


@torch.no_grad()
def _by_log_time(fitted: Fitted, u: Tensor, t: float) -> Tensor:
    return (fitted.alpha(u, t * (1.0 + _TIME_STEP)) - fitted.alpha(u, t * (1.0 - _TIME_STEP))) / (2.0 * _TIME_STEP)
