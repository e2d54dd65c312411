"""The order in which training sees the images, and which of them are mirrored (docs/architecture.md, "Randomness").

Training is one endless sequence of epochs, each a fresh permutation keyed by (seed, epoch). Step s takes positions
s B to (s + 1) B - 1, where B is the global batch, and each rank takes a slice of them. So the images of a step depend
on the step alone: not on the ranks, and not on where training was interrupted.
"""

from functools import lru_cache

import torch
from torch import Tensor

from cld_core.seeds import generator


@lru_cache(maxsize=4)
def _epoch(n: int, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """The permutation of an epoch, int64 of shape (n,), and which positions in it are mirrored, bool of shape (n,)."""
    order = torch.randperm(n, generator=generator(seed, "order", epoch))
    mirrored = torch.rand(n, generator=generator(seed, "mirror", epoch)) < 0.5
    return order, mirrored


def _take(which: int, step: int, batch_size: int, n: int, seed: int) -> Tensor:
    assert min(step + 1, batch_size, n) >= 1, f"no batch: step {step}, batch {batch_size}, images {n}"
    pieces = []
    position, last = step * batch_size, (step + 1) * batch_size
    while position < last:
        epoch, offset = divmod(position, n)
        length = min(n - offset, last - position)
        pieces.append(_epoch(n, seed, epoch)[which][offset : offset + length])
        position += length
    return torch.cat(pieces)


def indices(step: int, batch_size: int, n: int, seed: int) -> Tensor:
    """The images of the global batch of a step, int64 of shape (batch_size,), each in [0, n).

    A batch that crosses the end of an epoch continues with the next one.
    """
    return _take(0, step, batch_size, n, seed)


def mirrored(step: int, batch_size: int, n: int, seed: int) -> Tensor:
    """Which images of the global batch of a step are mirrored left to right, bool of shape (batch_size,)."""
    return _take(1, step, batch_size, n, seed)
