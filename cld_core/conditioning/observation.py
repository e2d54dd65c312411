"""Observations of an example: y = H x + sigma z with standard normal z (docs/math.md section 14)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from cld_core.errors import UsageError
from cld_core.seeds import key_of

from .operators import Functions, Masked, Matrix, Operator, Pooled, is_onto

# How far pixels may be beyond [-1, 1] because of rounding.
_TOLERANCE = 1e-4


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
