"""Data laws whose score is known exactly at every t (docs/math.md section 6).

Under any `Diffusion` a mixture of isotropic Gaussians stays a mixture of Gaussians, so
`MixtureScore` can replace a network's `Score` anywhere: samplers and likelihood are tested with it,
without training.
"""

import math

import torch
from torch import Tensor

from cld_core.sde import Diffusion

# The most rows times components of a log-density that are computed at once.
_ROWS_TIMES_COMPONENTS = 4_000_000


class GaussianMixture:
    """Mixture of K Gaussians N(means_k, std^2 I) on R^d; float64."""

    def __init__(self, means: Tensor, std: float, weights: Tensor | None = None) -> None:
        """``means`` (K, d); ``weights`` (K,), positive, are normalised, and equal by default."""
        assert means.ndim == 2, f"means must be (K, d), not {tuple(means.shape)}"
        self.means = means.double()
        self.std = std
        weights = torch.ones(len(means)) if weights is None else weights
        self.weights = weights.double() / weights.double().sum()

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n points, (n, d), float32."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dimension, generator=generator, dtype=torch.float64)
        return (self.means[component] + self.std * noise).float()

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x), (n,), float64, nats, of x (n, d)."""
        rows = max(1, _ROWS_TIMES_COMPONENTS // len(self.means))
        return torch.cat([self._log_density(part) for part in x.double().split(rows)])

    def _log_density(self, x: Tensor) -> Tensor:
        # The square is not expanded, which would cancel if std is small.
        square = sum(
            (x[:, i, None] - self.means[None, :, i]).square() for i in range(self.dimension)
        )
        exponent = self.weights.log() - 0.5 * square / self.std**2
        constant = self.dimension * math.log(math.sqrt(2.0 * math.pi) * self.std)
        return torch.logsumexp(exponent, dim=1) - constant

    def entropy(self, *, per_std: float = 4.0) -> float:
        """Differential entropy in nats of a mixture on the plane, by the trapezoid rule.

        The integrand is smooth on the scale of std, so with ``per_std`` nodes per std the rule is
        exact to rounding (docs/math.md section 10).
        """
        assert self.dimension == 2, (
            f"the quadrature is two-dimensional, the law has d = {self.dimension}"
        )
        h = self.std / per_std
        margin = 9.0 * self.std
        axes = []
        for m in self.means.T:
            low = float(m.min()) - margin
            high = float(m.max()) + margin
            count = math.ceil((high - low) / h) + 1
            axes.append(torch.linspace(low, high, count, dtype=torch.float64))
        p = self.density_on_grid(*axes)
        cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
        return float(-torch.special.xlogy(p, p).sum()) * cell

    def density_on_grid(self, x: Tensor, y: Tensor) -> Tensor:
        """p, (n, m), float64, where the lines x (n,) and y (m,) of the plane cross.

        It is a product of two thin matrices, and 0 where the density underflows, far from all
        means.
        """

        def along(nodes: Tensor, axis: int) -> Tensor:
            distances = (nodes.double()[:, None] - self.means[:, axis]) / self.std
            return torch.exp(-0.5 * distances.square()) / (math.sqrt(2.0 * math.pi) * self.std)

        return (along(x, 0) * self.weights) @ along(y, 1).T

    def score(self, sde: Diffusion, classes: Tensor | None = None) -> "MixtureScore":
        """The exact score under ``sde``; with the ``classes`` (K,) of the components, it also takes
        labels."""
        return MixtureScore(self, sde, classes)


def gaussian(std: float = 0.5, d: int = 2) -> GaussianMixture:
    """N(0, std^2 I): the score is linear and everything has a closed form."""
    return GaussianMixture(torch.zeros(1, d), std)


def diamond() -> GaussianMixture:
    """The standard case: nine Gaussians of std 0.04, on the 3x3 grid over [-0.5, 0.5]^2, rotated by
    45 degrees."""
    axis = torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2.0)
    return GaussianMixture(grid @ turn.T, 0.04)


class MixtureScore:
    """Exact score of the scored halves and log-density at every t, for a mixture as data law.

    It is called as `cld_core.score.Score`: u (B, n d), t a float or (B,) float64. With ``classes``,
    the class (K,) of each component, the methods also take labels (B,): the law of an example is
    then that of the components of its class. The label after the last class stands for none.
    """

    def __init__(self, law: GaussianMixture, sde: Diffusion, classes: Tensor | None = None) -> None:
        self.law = law
        self._classes = classes
        self.sde = sde

    def __call__(self, u: Tensor, t: float | Tensor, *label: Tensor) -> Tensor:
        """Score (B, m d) in the type of u."""
        log_joint, scores = self._log_joint(u, t, *label)
        return (torch.softmax(log_joint, dim=1)[:, :, None] * scores).sum(1).to(u.dtype)

    def log_density(self, u: Tensor, t: float | Tensor, *label: Tensor) -> Tensor:
        """log p_t(u), (B,), float64, nats, of all halves together."""
        return torch.logsumexp(self._log_joint(u, t, *label)[0], dim=1)

    def _log_weights(self, u: Tensor, *label: Tensor) -> Tensor:
        """Logarithms of the weights, (K,), or of those given labels (B,), (B, K)."""
        if not label:
            return self.law.weights.log().to(u.device)
        assert self._classes is not None, "labels are of classes"
        classes = self._classes.to(u.device)
        kept = (classes == label[0][:, None]) | (label[0][:, None] > classes.max())
        weights = self.law.weights.to(u.device) * kept
        return (weights / weights.sum(1, keepdim=True)).log()

    def _log_joint(self, u: Tensor, t: float | Tensor, *label: Tensor) -> tuple[Tensor, Tensor]:
        """log(weight_k p_k(u)) (B, K), and the score of each component (B, K, m d)."""
        sde = self.sde
        time = t.to(u.device, torch.float64) if isinstance(t, Tensor) else float(t)
        means = self.law.means.to(u.device)
        factor = sde.law(time, data_std=self.law.std).to(u.device).reshape(-1, sde.n, sde.n)
        # Each entry is (1 or B, 1, 1), to multiply (B, K, d).
        lower = factor[..., None, None]
        psi = sde.mean(time).to(u.device).reshape(-1, sde.n, sde.n, 1, 1)

        # L^-1 (u - mean), half by half: the square is a sum of n terms, and nothing cancels.
        noises: list[Tensor] = []
        for i, half in enumerate(sde.halves(u.double())):
            rest = half[:, None, :] - psi[:, i, 0] * means
            for j, noise in enumerate(noises):
                rest = rest - lower[:, i, j] * noise
            noises.append(rest / lower[:, i, i])
        squares = torch.stack([noise.square().sum(2) for noise in noises]).sum(0)
        log_det = 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        log_volume = self.law.dimension * (log_det[:, None] + sde.n * math.log(2.0 * math.pi))
        log_joint = self._log_weights(u, *label) - 0.5 * (squares + log_volume)

        # -L^-T of these, for the scored halves only, from the last half backwards.
        scores: list[Tensor] = []
        for i in reversed(range(sde.unscored, sde.n)):
            pull = -noises[i]
            for k, score in zip(range(i + 1, sde.n), scores, strict=True):
                pull = pull - lower[:, k, i] * score
            scores.insert(0, pull / lower[:, i, i])
        return log_joint, torch.cat(scores, dim=2)
