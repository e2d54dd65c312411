"""Samplers whose steps are linear in u and in the alphas so far, their parameters, and exponential ones among them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from cld_core.samplers import exponential, grids
from cld_core.samplers.split import score_from_rest
from cld_core.sde import Diffusion
from cld_core.solutions import Matrix, Solution

from .tuning import CANDIDATES, SPACINGS, Settings

# How many of the newest alphas have weights in every fit, and in one from order 3 with the corrector. Weights of older
# ones, which a solution of fewer evaluations leads to, stay as they are.
MEMORY, MOST_MEMORY = 4, 5
# Times are spread in B(t)^(1/6), in which the recommended grid is uniform.
POWER = 6.0


@dataclass(frozen=True)
class Linear:
    """The coefficients of `cld_core.solutions.Solution` as float64 tensors.

    Attributes:
        times: (N,).
        transitions: (N, n, n).
        weights: for each step, (alphas, n, m), the newest first.
    """

    times: Tensor
    transitions: Tensor
    weights: tuple[Tensor, ...]

    @classmethod
    def of_solution(cls, solution: Solution) -> Self:
        """The coefficients of a solution."""
        transitions, *weights = (
            torch.tensor(one, dtype=torch.float64) for one in (solution.transitions, *solution.weights)
        )
        return cls(torch.tensor(solution.times, dtype=torch.float64), transitions, tuple(weights))

    def solution(self, **others: Any) -> Solution:
        """A solution with these coefficients."""
        transitions, *weights = map(_matrices, (self.transitions, *self.weights))
        times = tuple(self.times.tolist())
        return Solution(nfe=len(times), times=times, transitions=transitions, weights=tuple(weights), **others)

    def to(self, u: Tensor) -> Self:
        """The same where u is."""
        weights = tuple(weights.to(u) for weights in self.weights)
        return replace(self, transitions=self.transitions.to(u), weights=weights)

    def fitted_weights(self, step: int) -> int:
        """How many weights of a step are parameters: those of its newest alphas."""
        return min(len(self.weights[step]), MOST_MEMORY)

    def rows(self, step: int) -> int:
        """How many rows of the matrices of a step are parameters: the last step results in x, the first half alone."""
        return 1 if step == len(self.times) - 1 else self.transitions.shape[1]


def spaced(sde: Diffusion, nfe: int, eps: float, denoise: bool, spacing: str) -> list[float]:
    """The times of one of `tuning.SPACINGS`, the end included."""
    name, _, power = spacing.partition(" ")
    return grids.times(name, nfe - denoise, eps, rho=float(power or 0.0), schedule=sde.schedule)


def of_exponential(sde: Diffusion, times: Sequence[float], settings: Settings, denoise: bool) -> Linear:
    """The exponential sampler over a grid, without noise, in linear form.

    The corrector's change of u becomes part of the next step.

    Args:
        times: the grid, its end included.
    """
    steps = exponential.steps(sde, tuple(times), settings.order, settings.corrector, 0.0)
    transitions, weights = [], []
    correction = torch.zeros(0, sde.n, sde.m, dtype=torch.float64)
    for number, step in enumerate(steps):
        transitions.append(step.transition)
        weights.append(_sum(step.predictor, step.transition @ correction)[: number + 1])
        correction = step.correction
    if denoise:
        transition, newest = _denoising(sde, times[-1])
        transitions.append(transition)
        weights.append(_sum(newest[None], transition @ correction)[: len(times)])
    evaluated = times if denoise else times[:-1]
    return Linear(torch.tensor(evaluated, dtype=torch.float64), torch.stack(transitions), tuple(weights))


def with_memory(linear: Linear) -> Linear:
    """The same sampler with weights for all alphas that every fit uses."""
    weights = []
    for number, old in enumerate(linear.weights):
        more = max(0, min(number + 1, MEMORY) - len(old))
        weights.append(torch.cat([old, old.new_zeros(more, *old.shape[1:])]))
    return Linear(linear.times, linear.transitions, tuple(weights))


def extended(linear: Linear, sde: Diffusion, nfe: int, eps: float, denoise: bool) -> Linear:
    """The same sampler with more evaluations, ``nfe`` in all: its samples are the same to rounding.

    The step that is the longest in B(t)^(1/6) is divided: the exponential sampler of order 0 leads to its middle, and
    the rest of the step from there to where it led before. What is evaluated in the middle has no weight yet.
    """
    while len(linear.times) < nfe:
        linear = _divided(linear, sde, eps, denoise)
    return linear


def _divided(linear: Linear, sde: Diffusion, eps: float, denoise: bool) -> Linear:
    times = linear.times.tolist()
    places = [sde.schedule.integral(t) ** (1.0 / POWER) for t in (times if denoise else [*times, eps])]
    number = max(range(len(places) - 1), key=lambda step: places[step] - places[step + 1])
    middle = sde.schedule.time((0.5 * (places[number] + places[number + 1])) ** POWER)
    first = of_exponential(sde, (times[number], middle), Settings(1, False), False)
    transition = linear.transitions[number] @ torch.linalg.inv(first.transitions[0])
    weights, last = list(linear.weights), linear.weights[number].clone()
    last[0] -= transition @ first.weights[0][0]
    for step, old in enumerate([last, *weights[number + 1 :]]):
        # The new alpha comes after those of the steps from `number` + 1 to this one.
        if len(old) > step:
            old = torch.cat([old[:step], old.new_zeros(1, *old.shape[1:]), old[step:]])
        weights[number + step] = old
    weights.insert(number, first.weights[0])
    transitions = [*linear.transitions]
    transitions[number : number + 1] = [first.transitions[0], transition]
    times.insert(number + 1, middle)
    return Linear(torch.tensor(times, dtype=torch.float64), torch.stack(transitions), tuple(weights))


def largest(sde: Diffusion, nfe: int, eps: float, denoise: bool) -> Linear:
    """A sampler with the largest number of coefficients that a fitted one can have."""
    times = spaced(sde, nfe, eps, denoise, SPACINGS[0])
    return with_memory(of_exponential(sde, times, CANDIDATES[-1], denoise))


def is_free(number: int, count: int, denoise: bool) -> bool:
    """Whether the time of a step is a parameter: not that of the first evaluation, t = 1, nor of denoising, eps."""
    return 0 < number < (count - 1 if denoise else count)


def sizes(linear: Linear, denoise: bool) -> list[int]:
    """The number of parameters of each step: its time, if it is free, its transition and its newest weights."""
    count, (n, m) = len(linear.times), linear.weights[0].shape[1:]
    return [
        is_free(step, count, denoise) + linear.rows(step) * (n + m * linear.fitted_weights(step))
        for step in range(count)
    ]


def packed(linear: Linear, denoise: bool) -> Tensor:
    """The parameters (P,): for each step log t if the time is free, the transition, the newest weights."""
    count, parts = len(linear.times), []
    for number, weights in enumerate(linear.weights):
        rows = slice(0, linear.rows(number))
        if is_free(number, count, denoise):
            parts.append(linear.times[number].log()[None])
        parts += [linear.transitions[number, rows].flatten(), weights[:MOST_MEMORY, rows].flatten()]
    return torch.cat(parts)


def unpacked(parameters: Tensor, like: Linear, denoise: bool, eps: float) -> Linear:
    """The sampler with these parameters; times are kept between eps and 1."""
    times, transitions, weights = like.times.clone(), like.transitions.clone(), []
    count, at = len(times), 0

    def take(target: Tensor) -> None:
        nonlocal at
        target.copy_(parameters[at : at + target.numel()].view(target.shape))
        at += target.numel()

    for number, old in enumerate(like.weights):
        rows = slice(0, like.rows(number))
        if is_free(number, count, denoise):
            take(times[number : number + 1])
            times[number] = times[number].exp().clamp(eps, 1.0)
        new = old.clone()
        take(transitions[number, rows])
        take(new[:MOST_MEMORY, rows])
        weights.append(new)
    return Linear(times, transitions, tuple(weights))


def split(u: Tensor, halves: int) -> Tensor:
    """(B, halves, C, ...), a view."""
    return u.unflatten(1, (halves, u.shape[1] // halves))


def _denoising(sde: Diffusion, eps: float) -> tuple[Tensor, Tensor]:
    """The matrices of the denoising step: of u (n, n) and of the last alpha (n, m), from images of unit vectors."""
    units = torch.eye(sde.n + sde.m, dtype=torch.float64)
    u, alpha = units[:, : sde.n].contiguous(), units[:, sde.n :].contiguous()
    images = sde.euler_step(u, score_from_rest(alpha, sde, u, eps), eps, eps).T
    return images[:, : sde.n], images[:, sde.n :]


def _matrices(tensor: Tensor) -> tuple[Matrix, ...]:
    return tuple(tuple(tuple(row) for row in matrix) for matrix in tensor.tolist())


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """a + b, the shorter one continued with zeros."""
    total = a.new_zeros(max(len(a), len(b)), *a.shape[1:])
    total[: len(a)] += a
    total[: len(b)] += b
    return total
