"""Linear maps H from an example to what is observed of it, y = H x + noise.

Examples are (B, C, ...) and observed values (B, k). `Operator` lists what `guidance` and `replacement` need of H.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from cld_core.errors import UsageError

# The most values for which the (k, k) matrix H H^T is computed: 128 MB in float64.
MOST_VALUES = 4096
_RANK_TOLERANCE = 1e-10


class Operator(Protocol):
    """H and its transpose."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example, (C, ...)."""
        ...

    @property
    def count(self) -> int:
        """k, the number of observed values."""
        ...

    @property
    def mask(self) -> Tensor | None:
        """Which numbers of an example are observed directly, bool of `shape`; None for any other map."""
        ...

    @property
    def gram(self) -> float | Tensor:
        """H H^T: a number g if it is g times the identity, else (k, k), float64."""
        ...

    def apply(self, x: Tensor) -> Tensor:
        """H x, (B, k), of x (B, C, ...)."""
        ...

    def transpose(self, w: Tensor) -> Tensor:
        """H^T w, (B, C, ...), of w (B, k)."""
        ...


@dataclass(frozen=True, eq=False)
class Masked:
    """Some of the numbers of an example, unchanged."""

    mask: Tensor  # bool, the shape of an example

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mask.shape)

    @property
    def count(self) -> int:
        return int(self.mask.sum())

    @property
    def gram(self) -> float:
        return 1.0

    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self.mask.flatten().to(x.device)]

    def transpose(self, w: Tensor) -> Tensor:
        flat = w.new_zeros(len(w), self.mask.numel())
        flat[:, self.mask.flatten().to(w.device)] = w
        return flat.view(-1, *self.shape)


@dataclass(frozen=True, eq=False)
class Pooled:
    """Means over squares of ``factor`` x ``factor`` pixels of images (C, H, W)."""

    shape: tuple[int, ...]
    factor: int
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or self.factor < 1 or any(side % self.factor for side in self.shape[1:]):
            text = f"images of shape {self.shape} cannot be downscaled by {self.factor}"
            raise UsageError(f"{text}. Use a factor that divides height and width.")

    @property
    def small(self) -> tuple[int, int, int]:
        """Shape of the downscaled image."""
        channels, height, width = self.shape
        return channels, height // self.factor, width // self.factor

    @property
    def count(self) -> int:
        return math.prod(self.small)

    @property
    def gram(self) -> float:
        return self.factor**-2

    def apply(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, self.factor).flatten(1)

    def transpose(self, w: Tensor) -> Tensor:
        image = w.view(-1, *self.small) * self.gram
        return image.repeat_interleave(self.factor, dim=2).repeat_interleave(self.factor, dim=3)


class Matrix:
    """A matrix (k, d) that acts on the d numbers of an example."""

    mask: Tensor | None = None

    def __init__(self, matrix: Tensor, shape: tuple[int, ...]) -> None:
        """
        Raises:
            UsageError: it does not act on examples of this shape, has too many rows, or is not finite.
        """
        if matrix.ndim != 2 or matrix.shape[1] != math.prod(shape) or not len(matrix):
            text = (
                f"the matrix H is {tuple(matrix.shape)}, and an example {tuple(shape)} has {math.prod(shape)} numbers"
            )
            raise UsageError(f"{text}. Pass a matrix (k, {math.prod(shape)}).")
        if len(matrix) > MOST_VALUES:
            raise UsageError(
                f"{len(matrix)} observed values: a matrix may have 1 to {MOST_VALUES} rows. Observe fewer."
            )
        if not bool(matrix.isfinite().all()):
            raise UsageError("the matrix H has entries that are not finite. Correct them.")
        self.matrix, self.shape, self.count = matrix.to(torch.float64), tuple(shape), len(matrix)
        self.gram = self.matrix @ self.matrix.T

    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T.to(x)

    def transpose(self, w: Tensor) -> Tensor:
        return (w @ self.matrix.to(w)).view(-1, *self.shape)


class Functions:
    """A pair of functions: H of x (B, C, ...) and H^T of w (B, k)."""

    mask: Tensor | None = None

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        transpose: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
        count: int,
    ) -> None:
        """
        Raises:
            UsageError: their results have other shapes, they are not each other's transpose, or ``count`` is too large.
        """
        if not 1 <= count <= MOST_VALUES:
            raise UsageError(f"{count} observed values: functions may give 1 to {MOST_VALUES}. Observe fewer.")
        self.shape, self.count, self._forward, self._transpose = tuple(shape), count, forward, transpose
        generator = torch.Generator().manual_seed(0)
        x, w = torch.randn(1, *shape, generator=generator), torch.randn(1, count, generator=generator)
        there, back = self.apply(x), self.transpose(w)
        if there.shape != w.shape or back.shape != x.shape:
            shapes = f"H gives {tuple(there.shape)} and H^T {tuple(back.shape)}"
            raise UsageError(f"{shapes}, where (1, {count}) and {tuple(x.shape)} are expected. Correct the functions.")
        if not torch.isclose((there * w).sum(), (back * x).sum(), rtol=1e-3, atol=1e-4):
            raise UsageError("the two functions are not each other's transpose: <H x, w> is not <x, H^T w>.")
        columns = self.apply(self.transpose(torch.eye(count)))
        self.gram = columns.to(torch.float64)

    def apply(self, x: Tensor) -> Tensor:
        return self._forward(x)

    def transpose(self, w: Tensor) -> Tensor:
        return self._transpose(w)


def is_onto(operator: Operator) -> bool:
    """Whether every y is some H x: whether an observation without noise can be met."""
    gram = operator.gram
    if not isinstance(gram, Tensor):
        return True
    values = torch.linalg.eigvalsh(gram)
    return bool(values[0] > _RANK_TOLERANCE * values[-1])
