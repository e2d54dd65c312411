"""Diffusions of other shapes than the shipped ones, with a kernel computed by matrix exponentials: right, but slow.

Their stationary law is the prior, so everything follows from A, D and the prior. Too inaccurate below t = 1e-3.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cld_core.sde import Diffusion, Law


def rows(matrix: Tensor, t: float | Tensor, *, lower: bool = False) -> Any:
    """(n, n) entries, floats for a float t and (B,) tensors otherwise, of a matrix (..., n, n)."""
    n = matrix.shape[-1]
    entries = [[matrix[..., i, j] for j in range(i + 1 if lower else n)] for i in range(n)]
    if not isinstance(t, Tensor):
        entries = [[float(entry) for entry in row] for row in entries]
    return tuple(tuple(row) for row in entries)


@dataclass(frozen=True, kw_only=True)
class Numeric(Diffusion):
    splits = True

    beta0: float = 4.0
    beta1: float = 0.0
    numerical_eps: float = 0.0

    def _psi(self, big_b: float | Tensor) -> Tensor:
        return torch.matrix_exp(
            torch.as_tensor(big_b, dtype=torch.float64)[..., None, None] * torch.tensor(self.A).double()
        )

    def _covariance(self, t: float | Tensor, initial: tuple[float, ...]) -> Tensor:
        """Sigma_t (..., n, n), from independent halves of standard deviations ``initial``."""
        psi, prior = self._psi(self.schedule.integral(t)), torch.diag(torch.tensor(self.prior_std).double().square())
        start = torch.diag(torch.tensor(initial).double().square())
        return prior + psi @ (start - prior) @ psi.mT

    def mean(self, t):
        return rows(self._psi(self.schedule.integral(t)), t)

    def factor(self, t, objective="hsm"):
        others = self.initial_std if objective == "hsm" else (0.0,) * (self.n - 1)
        return rows(torch.linalg.cholesky(self._covariance(t, (0.0, *others))), t, lower=True)

    def law(self, t, *, data_var):
        covariance = self._covariance(t, (data_var**0.5, *self.initial_std))
        return Law.of_factor(rows(torch.linalg.cholesky(covariance), t, lower=True))

    def known_precision(self, t):
        first = self.n - self.m
        covariance = self._covariance(t, (0.0, *self.initial_std))[..., first:, first:]
        return rows(torch.linalg.inv(covariance), t)

    def reverse(self, big_d):
        """Of the stationary process: Sigma_inf Psi^T Sigma_inf^-1."""
        prior = torch.diag(torch.tensor(self.prior_std).double().square())
        back = prior @ self._psi(big_d).mT @ torch.linalg.inv(prior)
        return rows(back, 0.0), rows(torch.linalg.cholesky(prior - back @ prior @ back.T), 0.0, lower=True)


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
