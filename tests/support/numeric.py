"""Kernel and law of a diffusion by matrix exponentials, which are right, but slow and too inaccurate below t = 1e-3.

`check` compares a diffusion with them.
"""

import functools
from dataclasses import dataclass

import torch

from cld_core.sde import PSLD, Diffusion
from cld_core.sde.matrices import apply, spread


def dense(rows):
    """Constants of a diffusion as a matrix (n, n), float64."""
    return torch.tensor(rows, dtype=torch.float64)


def diagonal(stds):
    """The covariance (n, n) of independent halves."""
    return torch.diag(torch.tensor(stds, dtype=torch.float64).square())


def psi(sde, big_b):
    """Psi(B), (n, n)."""
    return torch.matrix_exp(big_b * dense(sde.A))


def covariance(sde, t, initial):
    """Sigma_t (n, n), from independent halves of standard deviations ``initial``, if the prior is stationary."""
    moved, prior = psi(sde, sde.schedule.integral(t)), diagonal(sde.prior_std)
    return prior + moved @ (diagonal(initial) - prior) @ moved.mT


def reverse(sde, big_d):
    """Mean map Sigma_inf Psi^T Sigma_inf^-1 and covariance of the reverse of the stationary process."""
    prior = diagonal(sde.prior_std)
    back = prior @ psi(sde, big_d).mT @ torch.linalg.inv(prior)
    return back, prior - back @ prior @ back.T


def drift(sde, u, t):
    """beta(t) A u."""
    return spread(sde.schedule.beta(t), u) * apply(dense(sde.A), u)


def check(sde):
    """Compare what a diffusion answers with what follows from its A, D and prior."""
    same = functools.partial(torch.testing.assert_close, rtol=1e-8, atol=1e-10)
    a, prior = dense(sde.A), diagonal(sde.prior_std)
    noise = torch.diag(torch.tensor([0.0] * (sde.n - sde.m) + list(sde.D), dtype=torch.float64))
    same(a @ prior + prior @ a.T, -noise, msg="the prior is not the stationary law of A and D")
    eps = sde.numerical_eps * torch.eye(sde.n, dtype=torch.float64)
    for t in (0.02, 0.3, 1.0):
        same(sde.mean(t), psi(sde, sde.schedule.integral(t)))
        for objective in ("hsm", "dsm"):
            others = sde.initial_std if objective == "hsm" else (0.0,) * (sde.n - 1)
            factor = sde.factor(t, objective)
            same(factor @ factor.T, covariance(sde, t, (0.0, *others)) + eps)
        law, (_, others) = sde.law(t, data_std=0.5), sde.auxiliary(t)
        same(law @ law.T, covariance(sde, t, (0.5, *sde.initial_std)))
        same(others @ others.T, covariance(sde, t, (0.0, *sde.initial_std))[1:, 1:])
    back, factor = sde.reverse(0.3)
    same((back, factor @ factor.T), reverse(sde, 0.3))


# n = m = 2: noise in x and in v (PSLD, arXiv 2303.01748, with Gamma = 0.5, nu = 4.5, M = 1/4).
BothScored = functools.partial(PSLD, friction=0.5, nu=4.5, kappa=0.16, numerical_eps=0.0)


@dataclass(frozen=True, kw_only=True)
class ThirdOrder(Diffusion):
    """n = 3, m = 1: position, velocity and acceleration, noise in the last one only."""

    n = 3
    m = 1
    A = ((0.0, 2.0, 0.0), (-2.0, 0.0, 3.0), (0.0, -3.0, -6.0))
    D = (12.0,)
    prior_std = (1.0, 1.0, 1.0)
    initial_std = (0.3, 0.2)
    beta0: float = 4.0
    beta1: float = 0.0
