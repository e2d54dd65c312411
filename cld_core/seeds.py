"""The only place where randomness is keyed (docs/architecture.md, "Decisions").

A draw is a function of its purpose, never of earlier draws. So a run that was killed and resumed
draws the same numbers as one that was not, and a sample does not depend on the process that
computes it.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

# The number of consecutive samples that share a generator. Changing it changes every sample.
SAMPLE_BLOCK = 32


def key_of(*parts: int | str) -> int:
    """A 63-bit seed from any sequence of integers and names.

    torch's generators of the CPU use the lower 32 bits. Two of n generators are equal with a
    probability of about n^2 / 2^33 (docs/math.md section 7).
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator keyed by ``parts``, for example ``(seed, restart, step, "noise")``."""
    keyed = torch.Generator(device=device)
    keyed.manual_seed(key_of(*parts))
    return keyed


def blocks_of(first: int, last: int) -> tuple[range, slice]:
    """The blocks that hold the samples ``first <= i < last``, and the slice of these samples."""
    blocks = range(first // SAMPLE_BLOCK, (last - 1) // SAMPLE_BLOCK + 1)
    start = first - blocks[0] * SAMPLE_BLOCK
    return blocks, slice(start, start + last - first)


class SampleNoise:
    """Noise of the samples ``first <= i < last``.

    The noise of sample i is a function of ``parts``, i and the number of the call. It depends on
    neither batch size nor shard nor rank, because samples are drawn in fixed blocks of
    `SAMPLE_BLOCK`: a range that cuts a block draws the whole block and keeps its share.

    Numbers are the same for any device. They are drawn on the CPU, because those of a CUDA
    generator depend on the model of the card for large tensors. One core draws 3e8 normal numbers
    per second (measured on Zen 5). Those of a step of 50,000 images of CIFAR-10 take half a second,
    a small part of the time of a GPU for that step.

    Args:
        device: the device that the numbers are delivered to.
    """

    def __init__(
        self, *parts: int | str, first: int, last: int, device: torch.device | str = "cpu"
    ) -> None:
        assert 0 <= first < last, f"an empty range of samples: [{first}, {last})"
        blocks, self._slice = blocks_of(first, last)
        self._generators = [generator(*parts, "block", block) for block in blocks]
        self.device = torch.device(device)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Standard normal noise of shape (last - first, *shape)."""
        return self._draw(torch.randn, shape, dtype)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Uniform noise on [0, 1) of shape (last - first, *shape)."""
        return self._draw(torch.rand, shape, dtype)

    def rademacher(self, shape: Sequence[int]) -> torch.Tensor:
        """Signs, -1 or 1, of shape (last - first, *shape)."""

        def signs(size: Sequence[int], **settings: Any) -> torch.Tensor:
            return torch.where(torch.rand(size, **settings) < 0.5, -1.0, 1.0)

        return self._draw(signs, shape, torch.float32)

    def _draw(
        self, draw: Callable[..., torch.Tensor], shape: Sequence[int], dtype: torch.dtype
    ) -> torch.Tensor:
        size = (SAMPLE_BLOCK, *shape)
        blocks = [draw(size, generator=each, dtype=dtype) for each in self._generators]
        return delivered(torch.cat(blocks)[self._slice], self.device)


def delivered(numbers: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Numbers on a device; the CPU does not wait for a copy to a CUDA device."""
    on_cuda = device.type == "cuda"
    if on_cuda and numbers.device.type == "cpu":
        # The CPU waits for copies of memory that can be paged out. torch keeps pinned memory as
        # long as a stream reads it.
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=on_cuda)
