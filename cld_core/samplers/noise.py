"""Noise for the steps of a sampler, drawn for many steps at once."""

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

# Numbers that are drawn at once for each sample. A constant of the format: changing it changes every sample.
# The number of samples must not matter, or a sample would depend on its batch.
BLOCK = 4096


# (count, halves) -> ``count`` tensors of standard normal noise, (B, halves * C, ...).
Draws = Callable[[int, int], Iterator[Tensor]]


class Noise(Protocol):
    """What a sampler needs from `cld_core.seeds.SampleNoise`; other classes can provide it."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise (B, *shape)."""
        ...


def stream(noise: Noise, shape: tuple[int, ...], steps: int, device: torch.device | str) -> Iterator[Tensor]:
    """``steps`` standard normal tensors (B, *shape). For small shapes, one call of ``noise`` serves many steps."""
    at_once = max(1, BLOCK // math.prod(shape))
    for first in range(0, steps, at_once):
        block = noise.normal((min(at_once, steps - first), *shape)).to(device)
        yield from block.transpose(0, 1).contiguous()
