"""Observations of an example: y = H x + sigma z with standard normal z (docs/math.md section 14)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cld_core.config.sampling import SamplingSpec
from cld_core.errors import UsageError
from cld_core.seeds import key_of

# How far pixels may be beyond [-1, 1] because of rounding.
_TOLERANCE = 1e-4
# The most values for which the (k, k) matrix H H^T is computed: 128 MB in float64.
MOST_VALUES = 4096
_RANK_TOLERANCE = 1e-10


class Operator(Protocol):
    """H and its transpose: a linear map from an example (B, C, ...) to what is observed of it, (B, k)."""

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


@dataclass(frozen=True, eq=False)
class Observation:
    """A linear observation of one example, on which all samples are conditioned.

    Attributes:
        operator: H.
        y: (k,), float64.
        sigma: standard deviation of the noise in y, in the units of x; 0 if y is exact.
    """

    operator: Operator
    y: Tensor
    sigma: float = 0.0

    def __post_init__(self) -> None:
        """
        Raises:
            UsageError: y has another length or is not finite, sigma is negative, or an exact y cannot be met.
        """
        if self.y.shape != (self.operator.count,):
            text = f"y has the shape {tuple(self.y.shape)}, and {self.operator.count} values are observed"
            raise UsageError(f"{text}. Pass y of shape ({self.operator.count},).")
        if not bool(self.y.isfinite().all()):
            raise UsageError("y has values that are not finite. Leave them out of the mask, or correct them.")
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise UsageError(f"sigma={self.sigma:g}: expected a standard deviation of 0 or more.")
        if self.sigma == 0 and not is_onto(self.operator):
            raise UsageError("the rows of H depend on each other, so an exact y may not exist. Set sigma above 0.")
        object.__setattr__(self, "y", self.y.to(torch.float64))

    @classmethod
    def masked(cls, x: Tensor, mask: Tensor, sigma: float = 0.0) -> Self:
        """Some numbers of an example: inpainting.

        Args:
            x: (C, ...), whose values count where the mask is true.
            mask: bool, of the shape of x, or of its last dimensions: (H, W) is for all channels of an image.

        Raises:
            UsageError: the mask has another shape or type, or is true nowhere or everywhere with sigma of 0.
        """
        if mask.dtype != torch.bool:
            raise UsageError(f"the mask has the type {mask.dtype}. Pass booleans: True where x is known.")
        if tuple(mask.shape) != tuple(x.shape)[x.ndim - mask.ndim :]:
            text = f"the mask has the shape {tuple(mask.shape)}, and x {tuple(x.shape)}"
            raise UsageError(f"{text}. Pass a mask of the shape of x, or of its last dimensions.")
        known = mask.expand(x.shape).contiguous()
        if not known.any():
            raise UsageError("the mask is true nowhere: nothing is observed. Set it to True where x is known.")
        if known.all() and sigma == 0:
            raise UsageError("the mask is true everywhere: there is nothing to draw. Set it to False somewhere.")
        return cls(Masked(known), x[known].to(torch.float64), sigma)

    @classmethod
    def downscaled(cls, y: Tensor, factor: int, sigma: float = 0.0) -> Self:
        """Means over squares of pixels: super-resolution.

        Args:
            y: the small image (C, h, w) in [-1, 1]; samples are (C, factor h, factor w).
        """
        if y.ndim != 3:
            raise UsageError(f"the small image has the shape {tuple(y.shape)}. Pass (C, height, width).")
        shape = (y.shape[0], y.shape[1] * factor, y.shape[2] * factor)
        return cls(Pooled(shape, factor), y.flatten().to(torch.float64), sigma)

    @classmethod
    def linear(cls, matrix: Tensor, y: Tensor, sigma: float = 0.0, shape: tuple[int, ...] | None = None) -> Self:
        """A matrix (k, d) times the d numbers of an example.

        Args:
            shape: of one example; None: (d,).
        """
        return cls(Matrix(matrix, tuple(matrix.shape[1:]) if shape is None else shape), y.to(torch.float64), sigma)

    @classmethod
    def of_functions(
        cls,
        forward: Callable[[Tensor], Tensor],
        transpose: Callable[[Tensor], Tensor],
        y: Tensor,
        shape: tuple[int, ...],
        sigma: float = 0.0,
    ) -> Self:
        """Functions that compute H x, (B, k), of x (B, C, ...), and H^T w of w (B, k); y has at most 4,096 values."""
        return cls(Functions(forward, transpose, shape, y.numel()), y.to(torch.float64), sigma)

    def require_fit(self, shape: tuple[int, ...], *, is_image: bool) -> None:
        """Refuse an observation that does not fit the examples of a model.

        Raises:
            UsageError: names both shapes, or a value that is not one of a pixel.
        """
        if self.operator.shape != tuple(shape):
            text = (
                f"the observation is of an example of shape {self.operator.shape}, and the model draws {tuple(shape)}"
            )
            raise UsageError(f"{text}. Observe an example of that shape.")
        largest = float(self.y.abs().max())
        if is_image and self.sigma == 0 and self.operator.mask is not None and largest > 1 + _TOLERANCE:
            raise UsageError(f"a pixel of the observation is {largest:g}. Scale images to [-1, 1].")

    def residual(self, x: Tensor) -> Tensor:
        """y - H x, (B, k), in the type of x (B, C, ...)."""
        return self.y.to(x) - self.operator.apply(x)

    def digest(self, *words: str) -> str:
        """16 hexadecimal digits that differ for other observations, or other words."""
        known = self.backprojected().double().numpy().tobytes().hex()
        mask = self.operator.mask
        operator = self._fingerprint() if mask is None else mask.numpy()
        parts = (operator.tobytes().hex(), self.y.numpy().tobytes().hex())
        return f"{key_of(known, *parts, repr(self.sigma), *words):016x}"

    def _fingerprint(self) -> "np.ndarray[Any, Any]":
        """H^T of fixed random numbers, which is different for different maps."""
        w = torch.randn(1, self.operator.count, generator=torch.Generator().manual_seed(0))
        found: np.ndarray[Any, Any] = self.operator.transpose(w).numpy()
        return found

    def backprojected(self) -> Tensor:
        """The example of least norm with H x = y, (C, ...), float32, to show an observation."""
        gram, y = self.operator.gram, self.y[None]
        weights = torch.linalg.lstsq(gram, y.T).solution.T if isinstance(gram, Tensor) else y / gram
        return self.operator.transpose(weights.float())[0]


def require_untuned(spec: SamplingSpec) -> None:
    """Refuse a sampler that was fitted to the flow without an observation.

    Raises:
        UsageError
    """
    if spec.needs_solution:
        text = f"sampling.method={spec.method} was fitted to the network's flow without an observation"
        raise UsageError(f"{text}. Choose another method, for example exponential.")
