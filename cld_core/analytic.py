"""Data laws whose score is known exactly at every t, in phase space too (docs/math.md section 6).

Under either diffusion a mixture of isotropic Gaussians stays a mixture of Gaussians, so `MixtureScore` can stand
wherever a network's `Score` does: samplers and likelihood are tested with it, without training.
"""

import math

import torch
from torch import Tensor

from cld_core.sde import CLD, SDE

# Rows of a log-density that are computed at once, so that (rows x components) stays small.
_ROWS_TIMES_COMPONENTS = 4_000_000


class GaussianMixture:
    """Mixture of K Gaussians N(means_k, std^2 I) on R^d; float64."""

    def __init__(self, means: Tensor, std: float, weights: Tensor | None = None) -> None:
        """``means`` (K, d); ``weights`` (K,), positive, are normalised; without them all are equal."""
        assert means.ndim == 2, f"means must be (K, d), not {tuple(means.shape)}"
        self.means = means.to(torch.float64)
        self.std = std
        weights = torch.ones(len(means)) if weights is None else weights
        self.weights = weights.to(torch.float64) / weights.to(torch.float64).sum()

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, d), float32."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dimension, generator=generator, dtype=torch.float64)
        return (self.means[component] + self.std * noise).float()

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x), (n,), float64, nats, of x (n, d)."""
        rows = max(1, _ROWS_TIMES_COMPONENTS // len(self.means))
        return torch.cat([self._log_density(part) for part in x.to(torch.float64).split(rows)])

    def _log_density(self, x: Tensor) -> Tensor:
        # Without the expansion of the square: it cancels where std is small.
        square = sum((x[:, i, None] - self.means[None, :, i]).square() for i in range(self.dimension))
        exponent = self.weights.log() - 0.5 * square / self.std**2
        constant = self.dimension * math.log(math.sqrt(2.0 * math.pi) * self.std)
        return torch.logsumexp(exponent, dim=1) - constant

    def entropy(self, *, per_std: float = 4.0, reach: float = 9.0) -> float:
        """Differential entropy in nats of a mixture on the plane, by the trapezoid rule.

        The integrand is smooth on the scale of std, so with ``per_std`` nodes a std the rule is exact to
        rounding (docs/math.md section 10). On a grid the density is a product of two thin matrices.
        """
        assert self.dimension == 2, f"the quadrature is two-dimensional, the law has d = {self.dimension}"
        h = self.std / per_std
        factors = []
        for i in range(2):
            m = self.means[:, i]
            low, high = float(m.min()) - reach * self.std, float(m.max()) + reach * self.std
            nodes = torch.linspace(low, high, math.ceil((high - low) / h) + 1, dtype=torch.float64)
            step = float(nodes[1] - nodes[0])
            gauss = torch.exp(-0.5 * ((nodes[:, None] - m) / self.std).square())
            factors.append((gauss / (math.sqrt(2.0 * math.pi) * self.std), step))
        (along_x, step_x), (along_y, step_y) = factors
        p = (along_x * self.weights) @ along_y.T
        return float(-torch.special.xlogy(p, p).sum()) * step_x * step_y

    def score(self, sde: SDE) -> "MixtureScore":
        """The exact score under ``sde``."""
        return MixtureScore(self, sde)


def gaussian(std: float = 0.5, d: int = 2) -> GaussianMixture:
    """N(0, std^2 I): the score is linear and all that is computed has a closed form."""
    return GaussianMixture(torch.zeros(1, d), std)


def diamond() -> GaussianMixture:
    """Nine Gaussians of std 0.04 on the 3x3 grid over [-0.5, 0.5]^2, turned by 45 degrees: the standard case."""
    axis = torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2.0)
    return GaussianMixture(grid @ turn.T, 0.04)


class MixtureScore:
    """Exact score of the scored half, log-density and divergence at every t, for a mixture as data law.

    Callable as `cld_core.score.Score` is: u (B, 2d or d), t a float or (B,) float64.
    """

    def __init__(self, law: GaussianMixture, sde: SDE) -> None:
        self.law = law
        self.sde = sde

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        """Score (B, d) in the type of u."""
        responsibility, scores, _ = self._components(u, t)
        return (responsibility[:, :, None] * scores).sum(1).to(u.dtype)

    def log_density(self, u: Tensor, t: float | Tensor) -> Tensor:
        """log p_t(u), (B,), float64, nats: joint of (x, v) for CLD, with v0 ~ N(0, gamma M)."""
        return torch.logsumexp(self._log_joint(u, t)[0], dim=1)

    def divergence(self, u: Tensor, t: float | Tensor) -> Tensor:
        """Trace (B,), float64, of the Jacobian of the score with respect to the scored half."""
        responsibility, scores, curvature = self._components(u, t)
        mean = (responsibility[:, :, None] * scores).sum(1)
        spread = (responsibility * scores.square().sum(2)).sum(1) - mean.square().sum(1)
        return spread - self.law.dimension * curvature

    def _components(self, u: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior weights (B, K), scores (B, K, d) of the components, and their curvature (B,) or ()."""
        log_joint, scores, curvature = self._log_joint(u, t)
        return torch.softmax(log_joint, dim=1), scores, curvature

    def _log_joint(self, u: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log(weight_k p_k(u)) (B, K), score of each component (B, K, d), curvature: -d score / d scored half."""
        law, d = self.law, self.law.dimension
        time = torch.as_tensor(t, dtype=torch.float64, device=u.device)
        means, log_weights = law.means.to(u.device), law.weights.log().to(u.device)
        u = u.to(torch.float64)

        def wide(c: Tensor) -> Tensor:
            return c.reshape(-1, 1, 1)

        if isinstance(self.sde, CLD):
            psi = self.sde.transition(time)
            s = self.sde.law(time, data_var=law.std**2)
            x, v = self.sde.split(u)
            dx = x[:, None, :] - wide(psi.xx) * means
            dv = v[:, None, :] - wide(psi.vx) * means
            # v given x is normal with variance det/Sxx: the square is a sum of two, and nothing cancels.
            curvature = s.xx / s.det
            residual = dv - wide(s.xv / s.xx) * dx
            scores = -wide(curvature) * residual
            square = wide(1.0 / s.xx) * dx.square() + wide(curvature) * residual.square()
            log_det = s.det.log() + 2.0 * math.log(2.0 * math.pi)
        else:
            variance = self.sde.law(time, data_var=law.std**2)
            dx = u[:, None, :] - wide(self.sde.mean_factor(time)) * means
            curvature = 1.0 / variance
            scores = -wide(curvature) * dx
            square = wide(curvature) * dx.square()
            log_det = variance.log() + math.log(2.0 * math.pi)
        log_joint = log_weights - 0.5 * (square.sum(2) + d * log_det.reshape(-1, 1))
        return log_joint, scores, curvature
