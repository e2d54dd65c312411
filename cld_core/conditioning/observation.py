"""Observations of an example: y = H x + sigma z with standard normal z (docs/math.md section 14)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from cld_core.errors import UsageError
from cld_core.seeds import key_of

# How far pixels may be beyond [-1, 1] because of rounding.
_TOLERANCE = 1e-4
# The most values for which the (k, k) matrix H H^T is computed: 128 MB in float64.
MOST_VALUES = 4096
_RANK_TOLERANCE = 1e-10


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """A linear observation of one example, on which all samples are conditioned.

    Attributes:
        y: (k,), float64.
        sigma: standard deviation of the noise in y, in the units of x; 0 if y is exact.
        shape: of one example, (C, ...).
        apply: H x, (B, k), of x (B, C, ...).
        transpose: H^T w, (B, C, ...), of w (B, k).
        gram: H H^T: a number g if it is g times the identity, else (k, k), float64.
        mask: which numbers of an example are observed directly, bool of `shape`; None for any other map.
    """

    y: Tensor
    sigma: float
    shape: tuple[int, ...]
    apply: Callable[[Tensor], Tensor]
    transpose: Callable[[Tensor], Tensor]
    gram: float | Tensor
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        """
        Raises:
            UsageError: y has another length or is not finite, sigma is negative, or an exact y cannot be met.
        """
        gram = self.gram
        if isinstance(gram, Tensor) and self.y.shape != gram.shape[:1]:
            text = f"y has the shape {tuple(self.y.shape)}, and {len(gram)} values are observed"
            raise UsageError(f"{text}. Pass y of shape ({len(gram)},).")
        if not bool(self.y.isfinite().all()):
            raise UsageError("y has values that are not finite. Leave them out of the mask, or correct them.")
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise UsageError(f"sigma={self.sigma:g}: expected a standard deviation of 0 or more.")
        if self.sigma == 0 and isinstance(gram, Tensor):
            variances = torch.linalg.eigvalsh(gram)
            if not variances[0] > _RANK_TOLERANCE * variances[-1]:
                raise UsageError("the rows of H depend on each other, so an exact y may not exist. Set sigma above 0.")
        object.__setattr__(self, "y", self.y.to(torch.float64))

    @property
    def count(self) -> int:
        """k."""
        return len(self.y)

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
        places = known.flatten()

        def transpose(w: Tensor) -> Tensor:
            flat = w.new_zeros(len(w), known.numel())
            flat[:, places.to(w.device)] = w
            return flat.view(-1, *known.shape)

        def apply(x: Tensor) -> Tensor:
            return x.flatten(1)[:, places.to(x.device)]

        shape = tuple(known.shape)
        return cls(y=x[known], sigma=sigma, shape=shape, apply=apply, transpose=transpose, gram=1.0, mask=known)

    @classmethod
    def downscaled(cls, y: Tensor, factor: int, sigma: float = 0.0) -> Self:
        """Means over squares of pixels: super-resolution.

        Args:
            y: the small image (C, h, w) in [-1, 1]; samples are (C, factor h, factor w).

        Raises:
            UsageError: y is not an image, or the factor less than 1.
        """
        if y.ndim != 3:
            raise UsageError(f"the small image has the shape {tuple(y.shape)}. Pass (C, height, width).")
        if factor < 1:
            raise UsageError(f"images cannot be downscaled by {factor}. Use a factor of 1 or more.")
        shape, gram = (y.shape[0], y.shape[1] * factor, y.shape[2] * factor), factor**-2

        def transpose(w: Tensor) -> Tensor:
            image = w.view(-1, *y.shape) * gram
            return image.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)

        def apply(x: Tensor) -> Tensor:
            return functional.avg_pool2d(x, factor).flatten(1)

        return cls(y=y.flatten(), sigma=sigma, shape=shape, apply=apply, transpose=transpose, gram=gram)

    @classmethod
    def linear(cls, matrix: Tensor, y: Tensor, sigma: float = 0.0, shape: tuple[int, ...] | None = None) -> Self:
        """A matrix (k, d) times the d numbers of an example.

        Args:
            shape: of one example; None: (d,).

        Raises:
            UsageError: the matrix does not act on examples of this shape, has too many rows, or is not finite.
        """
        shape = tuple(matrix.shape[1:] if shape is None else shape)
        numbers = math.prod(shape)
        if matrix.ndim != 2 or matrix.shape[1] != numbers or not len(matrix):
            text = f"the matrix H is {tuple(matrix.shape)}, and an example {shape} has {numbers} numbers"
            raise UsageError(f"{text}. Pass a matrix (k, {numbers}).")
        if len(matrix) > MOST_VALUES:
            text = f"{len(matrix)} observed values: a matrix may have 1 to {MOST_VALUES} rows"
            raise UsageError(f"{text}. Observe fewer.")
        if not bool(matrix.isfinite().all()):
            raise UsageError("the matrix H has entries that are not finite. Correct them.")
        h = matrix.to(torch.float64)

        def transpose(w: Tensor) -> Tensor:
            return (w @ h.to(w)).view(-1, *shape)

        def apply(x: Tensor) -> Tensor:
            return x.flatten(1) @ h.T.to(x)

        return cls(y=y, sigma=sigma, shape=shape, apply=apply, transpose=transpose, gram=h @ h.T)

    @classmethod
    def of_functions(
        cls,
        forward: Callable[[Tensor], Tensor],
        transpose: Callable[[Tensor], Tensor],
        y: Tensor,
        shape: tuple[int, ...],
        sigma: float = 0.0,
    ) -> Self:
        """Functions that compute H x, (B, k), of x (B, C, ...), and H^T w of w (B, k); y has at most 4,096 values.

        Raises:
            UsageError: their results have other shapes, they are not each other's transpose, or y has too many values.
        """
        count = y.numel()
        if not 1 <= count <= MOST_VALUES:
            raise UsageError(f"{count} observed values: functions may give 1 to {MOST_VALUES}. Observe fewer.")
        generator = torch.Generator().manual_seed(0)
        x, w = torch.randn(1, *shape, generator=generator), torch.randn(1, count, generator=generator)
        there, back = forward(x), transpose(w)
        if there.shape != w.shape or back.shape != x.shape:
            shapes = f"H gives {tuple(there.shape)} and H^T {tuple(back.shape)}"
            raise UsageError(f"{shapes}, where (1, {count}) and {tuple(x.shape)} are expected. Correct the functions.")
        if not torch.isclose((there * w).sum(), (back * x).sum(), rtol=1e-3, atol=1e-4):
            raise UsageError("the two functions are not each other's transpose: <H x, w> is not <x, H^T w>.")
        gram = forward(transpose(torch.eye(count))).to(torch.float64)
        return cls(y=y, sigma=sigma, shape=tuple(shape), apply=forward, transpose=transpose, gram=gram)

    def require_fit(self, shape: tuple[int, ...], *, is_image: bool) -> None:
        """Refuse an observation that does not fit the examples of a model.

        Raises:
            UsageError: names both shapes, or a value that is not one of a pixel.
        """
        if self.shape != tuple(shape):
            text = f"the observation is of an example of shape {self.shape}, and the model draws {tuple(shape)}"
            raise UsageError(f"{text}. Observe an example of that shape.")
        largest = float(self.y.abs().max())
        if is_image and self.sigma == 0 and self.mask is not None and largest > 1 + _TOLERANCE:
            raise UsageError(f"a pixel of the observation is {largest:g}. Scale images to [-1, 1].")

    def residual(self, x: Tensor) -> Tensor:
        """y - H x, (B, k), in the type of x (B, C, ...)."""
        return self.y.to(x) - self.apply(x)

    def digest(self, *words: str) -> str:
        """16 hexadecimal digits that differ for other observations, or other words."""
        known, seen = self.backprojected().double(), self.mask
        if seen is None:
            # H^T of fixed random numbers, which is different for different maps.
            seen = self.transpose(torch.randn(1, self.count, generator=torch.Generator().manual_seed(0)))
        parts = (part.numpy().tobytes().hex() for part in (known, seen, self.y))
        return f"{key_of(*parts, repr(self.sigma), *words):016x}"

    def backprojected(self) -> Tensor:
        """The example of least norm with H x = y, (C, ...), float32, to show an observation."""
        gram, y = self.gram, self.y[None]
        weights = torch.linalg.lstsq(gram, y.T).solution.T if isinstance(gram, Tensor) else y / gram
        return self.transpose(weights.float())[0]
