"""Sampling: from noise at t = 1 to data, with any score (a network's, or an exact one of `analytic`).

Each method is a module with a function ``sample(score, sde, spec, u, draws, watcher)``:

    u       (B, nC, ...), a draw of the prior at t = 1, which the function may overwrite
    draws   ``draws(count, halves)`` yields standard normal noise (B, halves * C, ...) ``count`` times
    watcher is told where the sampler is (`path.Watcher`); only those who watch pass one
    solution, a keyword that methods with ``needs_solution`` have: `cld_core.run.tunings.Solution`

It returns u at the end, denoised if ``spec.denoise``, and the evaluations of the network per sample, an int or (B,).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cld_core.config.registry import implementation_of
from cld_core.config.sampling import SamplingSpec
from cld_core.run.tunings import Solution
from cld_core.samplers.path import Watcher
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion

__all__ = ["Draws", "Noise", "Samples", "concatenated", "sample"]

T = TypeVar("T", bound=Any)

# Numbers that are drawn at once for each sample. A constant of the format: changing it changes every sample.
# The number of samples must not matter, or a sample would depend on its batch.
BLOCK = 4096

# (count, halves) -> ``count`` tensors of standard normal noise, (B, halves * C, ...).
Draws = Callable[[int, int], Iterator[Tensor]]


class Noise(Protocol):
    """What a sampler needs from `cld_core.seeds.SampleNoise`; other classes can provide it."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise (B, *shape)."""


@dataclass(frozen=True)
class Samples:
    """What `sample` returns."""

    x: Tensor  # (B, C, ...), the samples
    v: Tensor | None  # (B, (n - 1)C, ...), their other halves (CLD: velocities); None if n is 1
    nfe_each: Tensor  # (B,), int64: network evaluations of each sample, including denoising

    @property
    def nfe(self) -> float:
        """Mean number of network evaluations per sample, including denoising."""
        return float(self.nfe_each.double().mean())


def concatenated(parts: Sequence[T]) -> T:
    """Results of several batches, such as `Samples`, as one: dataclasses, of which the tensors are concatenated."""
    columns = {name: [getattr(part, name) for part in parts] for name in vars(parts[0])}
    tensors = {name: torch.cat(each) for name, each in columns.items() if isinstance(each[0], Tensor)}
    return replace(parts[0], **tensors)


@torch.no_grad()
def sample(
    score: ScoreFunction,
    sde: Diffusion,
    spec: SamplingSpec,
    noise: Noise,
    data_shape: tuple[int, ...],
    watcher: Watcher | None = None,
    solution: Solution | None = None,
) -> Samples:
    """Draw as many samples as ``noise`` has rows. Each depends on its own noise only.

    Args:
        score: maps (u, t) to the score of the scored halves; t is a float, or (B,) for the adaptive flow.
        spec: a recipe's `sampling` section.
        noise: `cld_core.seeds.SampleNoise`, or anything with ``normal(shape) -> (B, *shape)``, on the device that
            computes.
        data_shape: shape of one example, (C, ...).
        watcher: is told where the sampler is, such as a `path.Recorder`.
        solution: what a method that `needs_solution` follows.

    Raises:
        RecipeError: the method's settings give useless samples.
        SolverError: the adaptive flow's tolerance is out of reach.
    """
    spec.require_usable()
    channels, *rest = data_shape
    u = sde.prior(noise.normal((channels * sde.n, *rest)))

    def draws(count: int, halves: int) -> Iterator[Tensor]:
        return stream(noise, (channels * halves, *rest), count)

    watched = () if watcher is None else (watcher,)
    fitted = {"solution": solution} if spec.needs_solution else {}
    u, nfe = implementation_of("sampling", spec)(score, sde, spec, u, draws, *watched, **fitted)
    nfe_each = nfe if isinstance(nfe, Tensor) else torch.full((len(u),), nfe, dtype=torch.int64, device=u.device)
    if sde.n == 1:
        return Samples(u, None, nfe_each)
    return Samples(u[:, :channels].contiguous(), u[:, channels:].contiguous(), nfe_each)


def stream(noise: Noise, shape: tuple[int, ...], steps: int) -> Iterator[Tensor]:
    """``steps`` standard normal tensors (B, *shape). For small shapes, one call of ``noise`` serves many steps."""
    at_once = max(1, BLOCK // math.prod(shape))
    for first in range(0, steps, at_once):
        yield from noise.normal((min(at_once, steps - first), *shape)).transpose(0, 1).contiguous()
