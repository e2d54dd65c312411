"""Samplers whose steps are linear in u and in the alphas so far, and the exponential sampler as one of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.samplers import exponential, grids
from cld_core.samplers.split import score_from_rest
from cld_core.sde import Diffusion

from .stages import CANDIDATES, SPACINGS, Settings

# How many of the newest alphas a step of a fitted sampler may use.
MEMORY = 4


@dataclass(frozen=True)
class Linear:
    """The coefficients of `cld_core.solutions.Solution` as float64 tensors."""

    times: Tensor  # (N,)
    transitions: Tensor  # (N, n, n)
    weights: tuple[Tensor, ...]  # for each step, (alphas, n, m), the newest first


def spaced(sde: Diffusion, nfe: int, eps: float, denoise: bool, spacing: str) -> list[float]:
    """The times of one of `stages.SPACINGS`, the end included."""
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
    """The same sampler with weights for all alphas that a fit may use."""
    weights = []
    for number, old in enumerate(linear.weights):
        more = max(0, min(number + 1, MEMORY) - len(old))
        weights.append(torch.cat([old, old.new_zeros(more, *old.shape[1:])]))
    return Linear(linear.times, linear.transitions, tuple(weights))


def largest(sde: Diffusion, nfe: int, eps: float, denoise: bool) -> Linear:
    """A sampler with the largest number of coefficients that a fitted one can have."""
    times = spaced(sde, nfe, eps, denoise, SPACINGS[0])
    return with_memory(of_exponential(sde, times, CANDIDATES[-1], denoise))


def _denoising(sde: Diffusion, eps: float) -> tuple[Tensor, Tensor]:
    """The matrices of the denoising step: of u (n, n) and of the last alpha (n, m), from images of unit vectors."""
    units = torch.eye(sde.n + sde.m, dtype=torch.float64)
    u, alpha = units[:, : sde.n].contiguous(), units[:, sde.n :].contiguous()
    images = sde.euler_step(u, score_from_rest(alpha, sde, u, eps), eps, eps).T
    return images[:, : sde.n], images[:, sde.n :]


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """a + b, the shorter one continued with zeros."""
    total = a.new_zeros(max(len(a), len(b)), *a.shape[1:])
    total[: len(a)] += a
    total[: len(b)] += b
    return total
