"""Samples given a linear observation of x, y = H x + sigma z, with the same network (docs/math.md section 14).

`GradientGuidance` and `Replacement` are two ways of turning a score into one given y, and their settings. A further way
has the members of `Way`.
"""

from typing import Protocol

from torch import Tensor

from cld_core.conditioning.estimate import posterior_mean
from cld_core.conditioning.gradient import GradientGuidance, GradientGuided
from cld_core.conditioning.observation import Observation
from cld_core.conditioning.replacement import Replaced, Replacement
from cld_core.recipe.sampling import SamplingSpec
from cld_core.sampling.noise import Noise
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion

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
    """How samples are conditioned."""

    def require_usable(self, observation: Observation, spec: SamplingSpec) -> None:
        """Refuse an observation or a sampler that cannot be used; raises `UsageError`."""
        ...

    def conditioned(self, score: ScoreFunction, sde: Diffusion, observation: Observation, noise: Noise) -> Conditioned:
        """The score given y, for as many samples as ``noise`` has rows."""
        ...
