"""Kernel and law of a diffusion by matrix exponentials, which are right, but slow and too inaccurate below t = 1e-3.

`check` compares a diffusion with them. Others, of other shapes than the shipped ones, consist of them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cld_core.sde import Diffusion, Law
from cld_core.sde.coefficients import apply, spread
from cld_core.sde.rows import Rows


def rows(matrix: Tensor, t: float | Tensor, *, lower: bool = False) -> Any:
    """(n, n) entries, floats for a float t and (B,) tensors otherwise, of a matrix (..., n, n)."""
    n = matrix.shape[-1]
    entries = [[matrix[..., i, j] for j in range(i + 1 if lower else n)] for i in range(n)]
    if not isinstance(t, Tensor):
        entries = [[float(entry) for entry in row] for row in entries]
    return tuple(tuple(row) for row in entries)


def dense(matrix: Rows[float]) -> Tensor:
    """The n rows of a matrix, with or without the zeros of its upper triangle, as (n, n), float64."""
    return torch.tensor([[*row, *[0.0] * (len(matrix) - len(row))] for row in matrix], dtype=torch.float64)


def diagonal(stds: Sequence[float]) -> Tensor:
    """The covariance (n, n) of independent halves."""
    return torch.diag(torch.tensor(stds, dtype=torch.float64).square())


def psi(sde: Diffusion, big_b: float | Tensor) -> Tensor:
    """Psi(B), (..., n, n)."""
    if not isinstance(big_b, Tensor):
        return _psi(sde.A, (float(big_b),))[0]
    if big_b.requires_grad or big_b.numel() > 100:
        return torch.matrix_exp(big_b.double()[..., None, None] * dense(sde.A))
    return _psi(sde.A, tuple(big_b.flatten().tolist())).view(*big_b.shape, sde.n, sde.n)


@functools.cache
def _psi(a: Rows[float], of: tuple[float, ...]) -> Tensor:
    """Computed once: everything that is asked of a diffusion at a time, or at the times of a segment, needs it."""
    return torch.matrix_exp(torch.tensor(of, dtype=torch.float64)[:, None, None] * dense(a))


def covariance(sde: Diffusion, t: float | Tensor, initial: Sequence[float]) -> Tensor:
    """Sigma_t (..., n, n), from independent halves of standard deviations ``initial``, if the prior is stationary."""
    moved, prior = psi(sde, sde.schedule.integral(t)), diagonal(sde.prior_std)
    return prior + moved @ (diagonal(initial) - prior) @ moved.mT


def reverse(sde: Diffusion, big_d: float) -> tuple[Tensor, Tensor]:
    """Mean map Sigma_inf Psi^T Sigma_inf^-1 and covariance of the reverse of the stationary process."""
    prior = diagonal(sde.prior_std)
    back = prior @ psi(sde, big_d).mT @ torch.linalg.inv(prior)
    return back, prior - back @ prior @ back.T


def drift(sde: Diffusion, u: Tensor, t: float | Tensor) -> Tensor:
    """beta(t) A u."""
    return spread(sde.schedule.beta(t), u) * apply(sde.A, u)


def law_of_factor(factor: Rows[Any]) -> Law[Any]:
    """The law whose covariance has the lower triangular factor ``factor``."""
    pivots = tuple(row[i] for i, row in enumerate(factor))
    slopes = tuple(tuple(row[j] / pivots[j] for j in range(i)) for i, row in enumerate(factor))
    return Law(slopes, tuple(1.0 / (pivot * pivot) for pivot in pivots), math.prod(pivots) ** 2)


def check(sde: Diffusion) -> None:
    """Compare what a diffusion answers with what follows from its A, D and prior."""
    same = functools.partial(torch.testing.assert_close, rtol=1e-8, atol=1e-10)
    a, prior = dense(sde.A), diagonal(sde.prior_std)
    noise = torch.diag(torch.tensor([0.0] * (sde.n - sde.m) + list(sde.D), dtype=torch.float64))
    same(a @ prior + prior @ a.T, -noise, msg="the prior is not the stationary law of A and D")
    same(torch.diag(torch.tensor(sde.precision, dtype=torch.float64)), torch.linalg.inv(prior))
    for t in (0.02, 0.3, 1.0):
        same(dense(sde.mean(t)), psi(sde, sde.schedule.integral(t)))
        for objective in ("hsm", "dsm"):
            others = sde.initial_std if objective == "hsm" else (0.0,) * (sde.n - 1)
            factor = dense(sde.factor(t, objective))
            eps = sde.numerical_eps * torch.eye(sde.n, dtype=torch.float64)
            same(factor @ factor.T, covariance(sde, t, (0.0, *others)) + eps)
        law, whole = sde.law(t, data_var=0.25), covariance(sde, t, (0.5, *sde.initial_std))
        unit = dense(tuple((*slopes, 1.0) for slopes in law.slopes))
        same(unit @ torch.diag(1.0 / torch.tensor(law.precisions, dtype=torch.float64)) @ unit.T, whole)
        same(torch.tensor(law.det, dtype=torch.float64), torch.linalg.det(whole))
    if sde.splittable:
        back, factor = map(dense, sde.reverse(0.3))
        same((back, factor @ factor.T), reverse(sde, 0.3))


def remembered(method: Callable[..., Any]) -> Callable[..., Any]:
    """What a method answers at a float is computed once: grids and steps have times in common."""
    at_a_number = functools.lru_cache(maxsize=None)(method)

    @functools.wraps(method)
    def answer(self: Diffusion, t: float | Tensor, *args: Any, **keys: Any) -> Any:
        return (method if isinstance(t, Tensor) else at_a_number)(self, t, *args, **keys)

    return answer


@dataclass(frozen=True, kw_only=True)
class Numeric(Diffusion):
    beta0: float = 4.0
    beta1: float = 0.0

    @remembered
    def mean(self, t):
        return rows(psi(self, self.schedule.integral(t)), t)

    @remembered
    def factor(self, t, objective="hsm"):
        others = self.initial_std if objective == "hsm" else (0.0,) * (self.n - 1)
        return rows(torch.linalg.cholesky(covariance(self, t, (0.0, *others))), t, lower=True)

    @remembered
    def law(self, t, *, data_var):
        whole = covariance(self, t, (data_var**0.5, *self.initial_std))
        return law_of_factor(rows(torch.linalg.cholesky(whole), t, lower=True))

    @remembered
    def known_precision(self, t):
        first = self.n - self.m
        scored = covariance(self, t, (0.0, *self.initial_std))[..., first:, first:]
        return rows(torch.linalg.inv(scored), t)

    @remembered
    def reverse(self, big_d):
        back, noise = reverse(self, big_d)
        return rows(back, 0.0), rows(torch.linalg.cholesky(noise), 0.0, lower=True)


@dataclass(frozen=True, kw_only=True)
class BothScored(Numeric):
    """n = m = 2: noise in x and in v (PSLD, arXiv 2303.01748, with Gamma = 0.5, nu = 4.5, M = 1/4)."""

    n = 2
    m = 2
    A = ((-0.25, 2.0), (-0.5, -2.25))
    D = (0.5, 1.125)
    precision = (1.0, 4.0)
    prior_std = (1.0, 0.5)
    initial_std = (0.2,)
    beta0: float = 8.0


@dataclass(frozen=True, kw_only=True)
class ThirdOrder(Numeric):
    """n = 3, m = 1: position, velocity and acceleration, noise in the last one only."""

    n = 3
    m = 1
    A = ((0.0, 2.0, 0.0), (-2.0, 0.0, 3.0), (0.0, -3.0, -6.0))
    D = (12.0,)
    precision = (1.0, 1.0, 1.0)
    prior_std = (1.0, 1.0, 1.0)
    initial_std = (0.3, 0.2)
