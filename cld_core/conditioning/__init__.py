"""Samples given a linear observation of x, y = H x + sigma z, with the same network (docs/math.md section 14).

`GradientGuidance` and `Replacement` are two ways of conditioning a score on y, with their settings. A new way has to
implement the protocol `Way`.
"""

from typing import Protocol

from torch import Tensor

from cld_core.conditioning.gradient import GradientGuidance, GradientGuided
from cld_core.conditioning.observation import Observation
from cld_core.conditioning.replacement import Replaced, Replacement
from cld_core.config.sampling import SamplingSpec
from cld_core.samplers import Noise
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.estimate import posterior_mean

__all__ = [
    "Conditioned",
    "GradientGuidance",
    "GradientGuided",
    "Observation",
    "Replaced",
    "Replacement",
    "Way",
    "posterior_mean",
]


class Conditioned(Protocol):
    """A score given y."""

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        """The score (B, mC, ...) at u (B, nC, ...) and t."""
        ...

    def finished(self, x: Tensor) -> Tensor:
        """Samples (B, C, ...), changed where y is known to hold exactly."""
        ...


class Way(Protocol):
    """A way of conditioning samples on an observation."""

    def require_usable(self, observation: Observation, spec: SamplingSpec) -> None:
        """Refuse an observation or a sampler that cannot be used; raises `UsageError`."""
        ...

    def conditioned(self, score: ScoreFunction, sde: Diffusion, observation: Observation, noise: Noise) -> Conditioned:
        """The score given y, for as many samples as ``noise`` has rows."""
        ...
