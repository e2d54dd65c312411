"""Sampling: from noise at t = 1 to data, with any score (a network's, or an exact one of `analytic`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.errors import RecipeError
from cld_core.recipe.schema import SamplingSpec
from cld_core.sampling.euler_maruyama import euler_maruyama
from cld_core.sampling.grids import GRIDS
from cld_core.sampling.noise import Noise, stream
from cld_core.sampling.ode import probability_flow
from cld_core.sampling.sscs import sscs
from cld_core.score import ScoreFunction
from cld_core.sde import CLD, SDE

__all__ = ["Noise", "Samples", "sample"]

# Method -> (sampler with fixed steps, multiples of the data's channels that it wants as noise each step).
FIXED_STEP: dict[str, tuple[Callable[..., Tensor], int]] = {"em": (euler_maruyama, 1), "sscs": (sscs, 4)}


@dataclass(frozen=True)
class Samples:
    """What `sample` returns."""

    x: Tensor  # (B, C, ...), the samples
    v: Tensor | None  # (B, C, ...), their velocities; None without phase space
    nfe_each: Tensor  # (B,), int64: network evaluations that each sample took, denoising included

    @property
    def nfe(self) -> float:
        """Network evaluations a sample, denoising included, on average."""
        return float(self.nfe_each.double().mean())

    @staticmethod
    def cat(parts: "Sequence[Samples]") -> "Samples":
        """Samples of several batches as one."""
        v = [part.v for part in parts if part.v is not None]
        x, nfe_each = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "nfe_each"))
        return Samples(x, torch.cat(v) if v else None, nfe_each)


@torch.no_grad()
def sample(
    score: ScoreFunction,
    sde: SDE,
    spec: SamplingSpec,
    noise: Noise,
    data_shape: tuple[int, ...],
    device: torch.device | str = "cpu",
) -> Samples:
    """Draw as many samples as ``noise`` has rows, each a function of its own noise alone.

    Args:
        score: maps (u, t) to the score of the scored half; t is a float, or (B,) for the adaptive flow.
        noise: `cld_core.seeds.SampleNoise`, or anything with ``normal(shape) -> (B, *shape)``.
        data_shape: shape of one datum, (C, ...).

    Raises:
        RecipeError: SSCS without phase space.
        SolverError: the adaptive flow's tolerance is out of reach.
    """
    channels, *rest = data_shape
    u_channels = channels * (2 if sde.phase_space else 1)
    u = sde.prior(noise.normal((u_channels, *rest)).to(device))
    if spec.method == "ode":
        u, nfe_each = probability_flow(score, sde, u, end=spec.eps, rtol=spec.rtol, atol=spec.atol)
    else:
        if spec.method == "sscs" and not isinstance(sde, CLD):
            raise RecipeError(
                "sampling.method=sscs splits the dynamics of (x, v), which sde.name=vpsde has not. "
                "Choose sampling.method=em or ode."
            )
        steps = spec.nfe - 1 if spec.denoise else spec.nfe
        step, width = FIXED_STEP[spec.method]
        step_noise = stream(noise, (channels * width, *rest), steps, device)
        u = step(score, sde, u, GRIDS[spec.grid](steps, spec.eps), step_noise)
        nfe_each = torch.full((len(u),), steps, dtype=torch.int64, device=u.device)
    if spec.denoise:
        u = sde.euler_step(u, score(u, spec.eps), spec.eps, spec.eps)
        nfe_each = nfe_each + 1
    if isinstance(sde, CLD):
        x, v = sde.split(u)
        return Samples(x.contiguous(), v.contiguous(), nfe_each)
    return Samples(u, None, nfe_each)
