"""Noise for the steps of a sampler, drawn for many steps at once."""

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

# Numbers a sample that are drawn at once. A constant of the format: to change it is to change every sample.
# It may depend on the shape of a sample, never on how many there are.
BLOCK = 4096


class Noise(Protocol):
    """What `cld_core.seeds.SampleNoise` offers; anything else that offers it will do."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise (B, *shape)."""
        ...


def stream(noise: Noise, shape: tuple[int, ...], steps: int, device: torch.device | str) -> Iterator[Tensor]:
    """``steps`` standard normal tensors (B, *shape). For small shapes one call of ``noise`` serves many steps."""
    at_once = max(1, BLOCK // math.prod(shape))
    for first in range(0, steps, at_once):
        block = noise.normal((min(at_once, steps - first), *shape)).to(device)
        yield from block.transpose(0, 1).contiguous()
