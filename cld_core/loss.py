"""Score matching: hybrid (HSM) and denoising (DSM), in the paper's three weightings (docs/math.md section 4)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.recipe.schema import ObjectiveSpec
from cld_core.score import Score
from cld_core.sde import CLD, SDE
from cld_core.sde.coefficients import spread
from cld_core.seeds import SampleNoise


@dataclass(frozen=True)
class Draws:
    """The random numbers of one step for a batch of B."""

    t: Tensor  # (B,), float64
    noise: Tensor  # (B, 2C, ...) in phase space, (B, C, ...) otherwise
    v0: Tensor | None  # (B, C, ...), the initial velocity, for DSM only

    def rows(self, rows: slice) -> "Draws":
        """The share of the examples ``rows`` of the batch."""
        return Draws(self.t[rows], self.noise[rows], None if self.v0 is None else self.v0[rows])


class ScoreMatching:
    """Per-sample losses whose mean over data, times and noise is the training objective."""

    def __init__(self, sde: SDE, objective: ObjectiveSpec) -> None:
        self.sde = sde
        self.objective = objective
        self._draws_velocity = isinstance(sde, CLD) and objective.name == "dsm"

    def draw(
        self,
        generator: torch.Generator,
        batch: int,
        data_shape: tuple[int, ...],
        device: torch.device | str = "cpu",
    ) -> Draws:
        """Draws for the *global* batch, so that every rank can take its `Draws.rows` of the same numbers."""
        where = generator.device
        u01 = torch.rand(batch, generator=generator, device=where, dtype=torch.float64)
        noise = torch.randn((batch, *self._u_shape(data_shape)), generator=generator, device=where).to(device)
        v0 = None
        if self._draws_velocity:
            v0 = torch.randn((batch, *data_shape), generator=generator, device=where).to(device)
        return self._draws(u01.to(device), noise, v0)

    def draw_each(self, noise: SampleNoise, data_shape: tuple[int, ...]) -> Draws:
        """Draws of which each row is a function of its number alone, on the device of ``noise``."""
        u01 = noise.uniform((), torch.float64)
        e = noise.normal(self._u_shape(data_shape))
        return self._draws(u01, e, noise.normal(data_shape) if self._draws_velocity else None)

    def _u_shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        channels, *rest = data_shape
        return (channels * (2 if self.sde.phase_space else 1), *rest)

    def _draws(self, u01: Tensor, noise: Tensor, v0: Tensor | None) -> Draws:
        """From uniform and standard normal numbers."""
        if v0 is not None:
            assert isinstance(self.sde, CLD), "only CLD has a velocity"
            v0 = v0 * math.sqrt(self.sde.gamma * self.sde.mass)
        eps = self.objective.loss_eps
        return Draws(eps + (1.0 - eps) * u01, noise, v0)

    def perturb(self, x: Tensor, draws: Draws) -> Tensor:
        """u_t (B, 2C or C, ...) that the data x (B, C, ...) become at the times of ``draws``."""
        if not isinstance(self.sde, CLD):
            scale = spread(self.sde.variance(draws.t).sqrt(), x)
            return spread(self.sde.mean_factor(draws.t), x) * x + scale * draws.noise
        psi = self.sde.transition(draws.t)
        l_xx, l_vx, l_vv = self.sde.covariance(draws.t, self.objective.name).cholesky()
        noise_x, noise_v = self.sde.split(draws.noise)
        u_x = spread(psi.xx, x) * x + spread(l_xx, x) * noise_x
        u_v = spread(psi.vx, x) * x + spread(l_vx, x) * noise_x + spread(l_vv, x) * noise_v
        if self._draws_velocity:
            assert draws.v0 is not None, "DSM conditions on the initial velocity: give Draws a v0"
            u_x = u_x + spread(psi.xv, x) * draws.v0
            u_v = u_v + spread(psi.vv, x) * draws.v0
        return torch.cat([u_x, u_v], dim=1)

    def weight(self, t: Tensor) -> Tensor:
        """Weight (B,), float64, of the squared error of the predicted noise."""
        if self.objective.weighting == "reweightedv2":
            return torch.ones_like(t)
        half_diffusion2 = 0.5 * self.sde.diffusion2(t)
        if self.objective.weighting == "reweightedv1":
            return half_diffusion2
        return half_diffusion2 * self.sde.ell(t, self.objective.name).square()

    def per_sample(self, score: Score, x: Tensor, draws: Draws) -> Tensor:
        """Losses (B,), summed over dimensions, of the data x (B, C, ...) with the given random numbers."""
        predicted = score.predicted_noise(self.perturb(x, draws), draws.t)
        error = (predicted - self.sde.scored(draws.noise)).square().flatten(1).sum(1)
        if self.objective.weighting == "reweightedv2":
            return error  # times 1
        return spread(self.weight(draws.t), error) * error
