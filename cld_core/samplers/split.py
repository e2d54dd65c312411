"""What samplers share: grids, the split of the score into a known part and a rest, and the last step."""

import functools
from typing import TypeVar

import torch
from torch import Tensor

from cld_core.config.sampling import FixedStepSpec, SamplingSpec
from cld_core.errors import RecipeError
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion, Schedule
from cld_core.sde.matrices import combined

T = TypeVar("T", int, Tensor)


def grid_of(spec: FixedStepSpec, schedule: Schedule, *, per_step: int = 1) -> list[float]:
    """The times of a recipe's fixed-step method, for as many whole steps as its evaluations allow.

    Args:
        per_step: evaluations of a step. The denoising step takes one more.

    Raises:
        RecipeError: there are not enough evaluations for one step.
    """
    own = spec.nfe - 1 if spec.denoise else spec.nfe
    steps = own // per_step
    if steps == 0:
        least = per_step + spec.nfe - own
        text = f"is too small for sampling.method={spec.method}, a step of which takes {per_step} evaluations here"
        raise RecipeError(f"sampling.nfe={spec.nfe} {text}. Set sampling.nfe={least} or more.")
    return schedule.grid(spec.spacing, steps, spec.eps, spec.grid_power)


@functools.lru_cache(maxsize=4096)
def _split(sde: Diffusion, t: float) -> tuple[Tensor, Tensor]:
    """alpha of (s, u_S), and s of (alpha, u_S), (m, 2m) each: the times of a grid come again with every batch."""
    target, known, inverse, shift = sde.known(t)
    return -torch.cat([inverse, shift], dim=1), -torch.cat([target, known], dim=1)


def rest(score: ScoreFunction, sde: Diffusion, u: Tensor, t: float) -> Tensor:
    """alpha := -E^-1 (s + K u_S) at u and t, (B, mC, ...): the score without its known part (docs/math.md 7.2)."""
    return combined(_split(sde, t)[0], (*sde.scored_halves(score(u, t)), *sde.scored_halves(sde.scored(u))))


def score_from_rest(alpha: Tensor, sde: Diffusion, u: Tensor, t: float) -> Tensor:
    """The score s = -E alpha - K u_S, (B, mC, ...)."""
    return combined(_split(sde, t)[1], (*sde.scored_halves(alpha), *sde.scored_halves(sde.scored(u))))


def ended(score: ScoreFunction, sde: Diffusion, spec: SamplingSpec, u: Tensor, nfe: T) -> tuple[Tensor, T]:
    """The sample, from u at ``spec.eps`` after ``nfe`` evaluations, and the evaluations in all.

    If ``spec.denoise``, it is the mean of one more Euler-Maruyama step to time 0 (docs/math.md section 7).
    """
    return (sde.euler_step(u, score(u, spec.eps), spec.eps, spec.eps), nfe + 1) if spec.denoise else (u, nfe)
