"""The exact law of x given a linear observation of a mixture of Gaussians (docs/math.md section 14.4)."""

import math

import torch
from torch import Tensor

from cld_core.analytic import GaussianMixture

# Variances below this share of the largest one are those of directions that are known exactly.
_EXACT = 1e-10


class ConditionalMixture:
    """Mixture of K Gaussians N(means_k, covariance) on R^d; float64. The covariance may be singular."""

    def __init__(self, means: Tensor, covariance: Tensor, weights: Tensor) -> None:
        """``means`` (K, d), ``covariance`` (d, d), ``weights`` (K,) that add up to 1."""
        self.means, self.covariance, self.weights = means, covariance, weights
        variances, directions = torch.linalg.eigh(covariance)
        free = variances > _EXACT * variances[-1]
        self._stds, self._directions = variances[free].sqrt(), directions[:, free]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, d), float32."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, len(self._stds), generator=generator, dtype=torch.float64)
        return (self.means[component] + (noise * self._stds) @ self._directions.T).float()

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x), (n,), float64, nats, of x (n, d): over the subspace of what is not known exactly."""
        offsets = (x.to(torch.float64)[:, None] - self.means) @ self._directions / self._stds
        constant = self._stds.log().sum() + 0.5 * len(self._stds) * math.log(2.0 * math.pi)
        return torch.logsumexp(self.weights.log() - 0.5 * offsets.square().sum(2), dim=1) - constant


def law_given(law: GaussianMixture, matrix: Tensor, y: Tensor, sigma: float) -> ConditionalMixture:
    """The law of x given y = H x + sigma z, with H = ``matrix`` (k, d) and y (k,) (docs/math.md section 14.4).

    With ``sigma`` = 0 the rows of H must be linearly independent.
    """
    h, variance = matrix.to(torch.float64), law.std**2
    identity = torch.eye(len(h), dtype=torch.float64)
    spread = variance * h @ h.T + sigma**2 * identity
    gain = variance * torch.linalg.solve(spread, h).T
    misses = y.to(torch.float64) - law.means @ h.T
    squares = (misses * torch.linalg.solve(spread, misses.T).T).sum(1)
    weights = torch.softmax(law.weights.log() - 0.5 * squares, dim=0)
    covariance = variance * (torch.eye(law.dimension, dtype=torch.float64) - gain @ h)
    return ConditionalMixture(law.means + misses @ gain.T, covariance, weights)
