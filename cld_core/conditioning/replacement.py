"""Conditioning by replacement (docs/math.md section 14.3).

In every evaluation of the network, the observed coordinates of u are replaced by a draw of the kernel given the
observed x, in all halves jointly (Song et al. 2021, arXiv 2011.13456, section 5, in phase space). This is an
approximation: the network sees a noisy version of what is known exactly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.config.registry import require_fixed_steps
from cld_core.config.sampling import SamplingSpec
from cld_core.errors import UsageError
from cld_core.samplers import Noise
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.matrices import apply, combined

from .observation import Observation, require_untuned


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """Settings of conditioning by replacement, for observations through a mask.

    Attributes:
        renew: draw new noise for the observed coordinates at every evaluation. Otherwise each sample keeps its noise,
            and samplers without noise follow a smooth flow.
    """

    renew: bool = True

    def require_usable(self, observation: Observation, spec: SamplingSpec) -> None:
        """
        Raises:
            UsageError: what is observed is not a part of x, or the sampler is tuned or chooses its own steps.
        """
        require_untuned(spec)
        if observation.operator.mask is None:
            fix = "Condition by gradient, or pass a mask"
            raise UsageError(f"replacement needs numbers of x as they are, and H is another map. {fix}.")
        require_fixed_steps(spec)

    def conditioned(self, score: ScoreFunction, sde: Diffusion, observation: Observation, noise: Noise) -> "Replaced":
        """The score given y; ``noise`` is used to draw the replaced coordinates."""
        return Replaced(score, sde, observation, self, noise)


class Replaced:
    """A score whose observed coordinates are replaced; callable as ``score`` is, by a sampler with fixed steps.

    With noise of std sigma in y, the observed x of a sample is drawn once from N(y, sigma^2).
    """

    def __init__(
        self, score: ScoreFunction, sde: Diffusion, observation: Observation, replacement: Replacement, noise: Noise
    ) -> None:
        operator = observation.operator
        assert operator.mask is not None, "`Replacement.require_usable` refuses other observations"
        self._score, self.sde, self._noise = score, sde, noise
        self._shape = (sde.n * operator.shape[0], *operator.shape[1:])
        self._renew = replacement.renew
        self._e = noise.normal(self._shape)
        self._mask = operator.mask.to(self._e.device)
        y = observation.y.to(self._e)[None] + observation.sigma * noise.normal((operator.count,))
        self._x = operator.transpose(y)

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        """The score (B, mC, ...), in observed coordinates that of the kernel; t is a float."""
        if self._renew:
            self._e = self._noise.normal(self._shape).to(u)
        score = self._score(self.replaced(u, t), t)
        own = apply(-self.sde.target(t), self.sde.scored(self._e.to(u)))
        return torch.where(self._wide(self.sde.m), own, score)

    def replaced(self, u: Tensor, t: float | Tensor) -> Tensor:
        """u with Psi_0 x + L e in its observed coordinates."""
        known = combined(self.sde.perturbation(t), (self._x.to(u), *self.sde.halves(self._e.to(u))))
        return torch.where(self._wide(self.sde.n), known, u)

    def _wide(self, halves: int) -> Tensor:
        """The mask over some halves, (halves C, ...)."""
        return torch.cat([self._mask] * halves)

    def finished(self, x: Tensor) -> Tensor:
        """Samples (B, C, ...) with the observed values in their places."""
        return torch.where(self._mask, self._x.to(x), x)
