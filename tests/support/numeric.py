"""Diffusions that are no recipe's, the drift of any, networks with a given score, exact laws,
numbers in float64."""

import functools
import math
from dataclasses import dataclass

import torch

from cld_core.analytic import GaussianMixture
from cld_core.sde import PSLD, Diffusion
from cld_core.sde.matrices import apply, spread
from cld_core.seeds import SampleNoise


def float64(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def drift(sde, u, t):
    """beta(t) A u."""
    return spread(sde.schedule.beta(t), u) * apply(float64(sde.A), u)


def seeded(seed=0):
    """torch's generator."""
    return torch.Generator().manual_seed(seed)


def standard_normal(*shape, seed=0):
    """Numbers in float64."""
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def noise_of(n, seed=0):
    """That of the samples 0 to n - 1."""
    return SampleNoise(seed, first=0, last=n)


# Three Gaussians of unequal weights.
MIXTURE = GaussianMixture(
    torch.tensor([[-0.4, 0.2], [0.7, 0.1], [0.0, -1.0]]), 0.3, torch.tensor([1.0, 2.0, 3.0])
)


class Given:
    """The law of x given y = H x + sigma z of a mixture of Gaussians (docs/math.md section 14.4): a
    mixture again.

    With ``sigma`` = 0 the covariance (d, d) is singular, and the density is that over the remaining
    directions.
    """

    def __init__(self, law, matrix, y, sigma):
        h = matrix.double()
        variance = law.std**2
        spread = variance * h @ h.T + sigma**2 * torch.eye(len(h))
        gain = variance * torch.linalg.solve(spread, h).T
        misses = y.double() - law.means @ h.T
        squares = (misses * torch.linalg.solve(spread, misses.T).T).sum(1)
        self.weights = torch.softmax(law.weights.log() - 0.5 * squares, dim=0)
        self.means = law.means + misses @ gain.T
        self.covariance = variance * (torch.eye(law.dimension) - gain @ h)
        variances, directions = torch.linalg.eigh(self.covariance)
        free = variances > 1e-10 * variances[-1]
        self._stds = variances[free].sqrt()
        self._directions = directions[:, free]

    def sample(self, n, generator):
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, len(self._stds), generator=generator, dtype=torch.float64)
        return (self.means[component] + (noise * self._stds) @ self._directions.T).float()

    def log_density(self, x):
        offsets = (x.double()[:, None] - self.means) @ self._directions / self._stds
        constant = self._stds.log().sum() + 0.5 * len(self._stds) * math.log(2.0 * math.pi)
        return torch.logsumexp(self.weights.log() - 0.5 * offsets.square().sum(2), dim=1) - constant


class AlphaOf(torch.nn.Module):
    """The network whose score, plain or mixed, is ``wanted(u, t)``."""

    def __init__(self, sde, objective, wanted):
        super().__init__()
        self.sde = sde
        self.objective = objective
        self.wanted = wanted

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
