"""Diffusions that are no recipe's, the drift of any, networks with a given score, and numbers in float64."""

import functools
from dataclasses import dataclass

import torch

from cld_core.sde import PSLD, Diffusion
from cld_core.sde.matrices import apply, spread


def dense(rows):
    """Constants of a diffusion as a matrix (n, n), float64."""
    return torch.tensor(rows, dtype=torch.float64)


def drift(sde, u, t):
    """beta(t) A u."""
    return spread(sde.schedule.beta(t), u) * apply(dense(sde.A), u)


def standard_normal(*shape, seed=0):
    """Numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class AlphaOf(torch.nn.Module):
    """The network whose score, plain or mixed, is ``wanted(u, t)``."""

    def __init__(self, sde, objective, wanted):
        super().__init__()
        self.sde, self.objective, self.wanted = sde, objective, wanted

    def forward(self, u, t):
        target, _, shift = self.sde.mixed(t, self.objective.name)
        noise = -apply(torch.linalg.inv(target), self.wanted(u, t))
        return noise - apply(shift, self.sde.scored(u)) if self.objective.mixed_score else noise


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
