"""Observations of an example: y = H x + sigma z with standard normal z (docs/math.md section 14).

They are made in Python or read from files: arrays (.npz), or a picture and a mask.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cld_core import npz
from cld_core.config.keys import Shape
from cld_core.data.folder import read_exactly
from cld_core.data.format import DataFormat
from cld_core.data.images import to_model
from cld_core.errors import DataError, UsageError, WrongSourceError
from cld_core.sanitize import one_line
from cld_core.seeds import key_of

# The distance of pixels from [-1, 1] that rounding may cause.
_TOLERANCE = 1e-4
# The most values for which the (k, k) matrix H H^T is computed: 128 MB in float64.
MOST_VALUES = 4096
_RANK_TOLERANCE = 1e-10
LinearMap = Callable[[Tensor], Tensor]
# What a file of arrays may have, in messages.
_FORMS = "x and mask, y and matrix, or y and factor; and sigma"


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """A linear observation of one example, for samples that are conditioned on it.

    Attributes:
        y: (k,), float64.
        sigma: standard deviation of the noise in y, in the units of x; 0 if y is exact.
        shape: the shape of one example, (C, ...).
        apply: maps x (B, C, ...) to H x, (B, k).
        transpose: maps w (B, k) to H^T w, (B, C, ...).
        gram: H H^T: a number g if it is g times the identity, else (k, k), float64.
        mask: which numbers of an example are observed directly, bool of `shape`; None for any other
            map.
    """

    y: Tensor
    sigma: float
    shape: Shape
    apply: LinearMap
    transpose: LinearMap
    gram: float | Tensor
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        """
        Raises:
            UsageError: y has another length or is not finite, sigma is negative, or an exact y
                cannot be met.
        """
        gram = self.gram
        if isinstance(gram, Tensor) and self.y.shape != gram.shape[:1]:
            raise UsageError(
                f"y has the shape {tuple(self.y.shape)}, and {len(gram)} values are observed. Pass "
                f"y of shape ({len(gram)},)."
            )
        if not bool(self.y.isfinite().all()):
            raise UsageError(
                "y has values that are not finite. Leave them out of the mask, or correct them."
            )
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise UsageError(f"sigma={self.sigma:g}: expected a standard deviation of 0 or more.")
        if self.sigma == 0 and isinstance(gram, Tensor):
            variances = torch.linalg.eigvalsh(gram)
            if not variances[0] > _RANK_TOLERANCE * variances[-1]:
                raise UsageError(
                    "the rows of H depend on each other, so an exact y may not exist. Set sigma "
                    "above 0."
                )
        object.__setattr__(self, "y", self.y.double())

    @property
    def count(self) -> int:
        """k."""
        return len(self.y)

    @classmethod
    def masked(cls, x: Tensor, mask: Tensor, sigma: float = 0.0) -> Self:
        """An observation of some numbers of an example, as for inpainting.

        Args:
            x: (C, ...); only its values where the mask is true matter.
            mask: bool, of the shape of x or of its last dimensions: (H, W) is for all channels of
                an image.

        Raises:
            UsageError: the mask has another shape or type, is true nowhere, or is true everywhere
                while sigma is 0.
        """
        if mask.dtype != torch.bool:
            raise UsageError(
                f"the mask has the type {mask.dtype}. Pass booleans: True where x is known."
            )
        if tuple(mask.shape) != tuple(x.shape)[x.ndim - mask.ndim :]:
            raise UsageError(
                f"the mask has the shape {tuple(mask.shape)}, and x {tuple(x.shape)}. Pass a mask "
                "of the shape of x, or of its last dimensions."
            )
        whole_mask = mask.expand(x.shape).contiguous()
        if not whole_mask.any():
            raise UsageError(
                "the mask is true nowhere: nothing is observed. Set it to True where x is known."
            )
        if whole_mask.all() and sigma == 0:
            raise UsageError(
                "the mask is true everywhere: there is nothing to draw. Set it to False somewhere."
            )
        places = whole_mask.flatten()

        def transpose(w: Tensor) -> Tensor:
            flat = w.new_zeros(len(w), whole_mask.numel())
            flat[:, places.to(w.device)] = w
            return flat.view(-1, *whole_mask.shape)

        def apply(x: Tensor) -> Tensor:
            return x.flatten(1)[:, places.to(x.device)]

        return cls(
            y=x[whole_mask],
            sigma=sigma,
            shape=tuple(whole_mask.shape),
            apply=apply,
            transpose=transpose,
            gram=1.0,
            mask=whole_mask,
        )

    @classmethod
    def downscaled(cls, y: Tensor, factor: int, sigma: float = 0.0) -> Self:
        """An observation of means over squares of pixels, as for super-resolution.

        Args:
            y: the small image (C, h, w) in [-1, 1]; samples are (C, factor h, factor w).

        Raises:
            UsageError: y is not an image, or the factor is less than 1.
        """
        if y.ndim != 3:
            raise UsageError(
                f"the small image has the shape {tuple(y.shape)}. Pass (C, height, width)."
            )
        if factor < 1:
            raise UsageError(f"images cannot be downscaled by {factor}. Use a factor of 1 or more.")
        channels, height, width = y.shape
        shape = (channels, height * factor, width * factor)
        gram = factor**-2

        def transpose(w: Tensor) -> Tensor:
            image = w.view(-1, *y.shape) * gram
            return image.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)

        def apply(x: Tensor) -> Tensor:
            return functional.avg_pool2d(x, factor).flatten(1)

        return cls(
            y=y.flatten(), sigma=sigma, shape=shape, apply=apply, transpose=transpose, gram=gram
        )

    @classmethod
    def linear(
        cls, matrix: Tensor, y: Tensor, sigma: float = 0.0, shape: Shape | None = None
    ) -> Self:
        """An observation of the product of a matrix (k, d) and the d numbers of an example.

        Args:
            shape: the shape of one example; None: (d,).

        Raises:
            UsageError: the matrix does not act on examples of this shape, has too many rows, or is
                not finite.
        """
        shape = tuple(matrix.shape[1:] if shape is None else shape)
        numbers = math.prod(shape)
        if matrix.ndim != 2 or matrix.shape[1] != numbers or not len(matrix):
            raise UsageError(
                f"the matrix H is {tuple(matrix.shape)}, and an example {shape} has {numbers} "
                f"numbers. Pass a matrix (k, {numbers})."
            )
        if len(matrix) > MOST_VALUES:
            raise UsageError(
                f"{len(matrix)} observed values: a matrix may have 1 to {MOST_VALUES} rows. "
                f"Observe fewer."
            )
        if not bool(matrix.isfinite().all()):
            raise UsageError("the matrix H has entries that are not finite. Correct them.")
        h = matrix.double()

        def transpose(w: Tensor) -> Tensor:
            return (w @ h.to(w)).view(-1, *shape)

        def apply(x: Tensor) -> Tensor:
            return x.flatten(1) @ h.T.to(x)

        return cls(y=y, sigma=sigma, shape=shape, apply=apply, transpose=transpose, gram=h @ h.T)

    @classmethod
    def of_functions(
        cls,
        forward: LinearMap,
        transpose: LinearMap,
        y: Tensor,
        shape: Shape,
        sigma: float = 0.0,
    ) -> Self:
        """An observation through functions.

        Args:
            forward: maps x (B, C, ...) to H x, (B, k).
            transpose: maps w (B, k) to H^T w, (B, C, ...).
            y: (k,), at most 4,096 values.
            shape: the shape of one example, (C, ...).

        Raises:
            UsageError: the results have other shapes, the functions are not each other's transpose,
                or y has too many values.
        """
        count = y.numel()
        if not 1 <= count <= MOST_VALUES:
            raise UsageError(
                f"{count} observed values: functions may give 1 to {MOST_VALUES}. Observe fewer."
            )
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, *shape, generator=generator)
        w = torch.randn(1, count, generator=generator)
        there = forward(x)
        back = transpose(w)
        if there.shape != w.shape or back.shape != x.shape:
            raise UsageError(
                f"H gives {tuple(there.shape)} and H^T {tuple(back.shape)}, where (1, {count}) and "
                f"{tuple(x.shape)} are expected. Correct the functions."
            )
        if not torch.isclose((there * w).sum(), (back * x).sum(), rtol=1e-3, atol=1e-4):
            raise UsageError(
                "the two functions are not each other's transpose: <H x, w> is not <x, H^T w>."
            )
        gram = forward(transpose(torch.eye(count))).double()
        return cls(
            y=y, sigma=sigma, shape=tuple(shape), apply=forward, transpose=transpose, gram=gram
        )

    def require_fit(self, shape: Shape, *, is_image: bool) -> None:
        """Check that the observation fits the examples of a model, of this shape.

        Raises:
            UsageError: the shapes differ, or a pixel is outside [-1, 1].
        """
        if self.shape != tuple(shape):
            raise UsageError(
                f"the observation is of an example of shape {self.shape}, and the model draws "
                f"{tuple(shape)}. Observe an example of that shape."
            )
        largest = float(self.y.abs().max())
        if is_image and self.sigma == 0 and self.mask is not None and largest > 1 + _TOLERANCE:
            raise UsageError(f"a pixel of the observation is {largest:g}. Scale images to [-1, 1].")

    def of_model(self, form: DataFormat) -> "Observation":
        """The same observation in terms of z, which the model sees in place of x = S z + shift.

        Raises:
            UsageError: the factors of the observed numbers differ, and there are too many of them
                to compute H S S H^T.
        """
        if not form.scale:
            return self
        shift = form.to_data(torch.zeros(1, *self.shape, dtype=torch.float64))
        factor = form.to_data(torch.ones(1, *self.shape, dtype=torch.float64)) - shift
        y = self.y - self.apply(shift)[0]
        factors = factor[0] if self.mask is None else factor[0][self.mask]
        scale = factors.flatten()[0]
        if bool((factors == scale).all()):
            return replace(self, y=y / scale, sigma=self.sigma / float(scale))
        if self.mask is not None and self.sigma == 0:
            return replace(self, y=y / factors)
        if self.count > MOST_VALUES:
            raise UsageError(
                f"{self.count} values are observed with noise, or as sums, of channels with "
                f"different scales. Observe at most {MOST_VALUES}, or numbers as they are, with "
                f"sigma=0."
            )

        def apply(z: Tensor) -> Tensor:
            return self.apply(z * factor.to(z))

        def transpose(w: Tensor) -> Tensor:
            return self.transpose(w) * factor.to(w)

        gram = apply(transpose(torch.eye(self.count, dtype=torch.float64)))
        return Observation(
            y=y, sigma=self.sigma, shape=self.shape, apply=apply, transpose=transpose, gram=gram
        )

    def residual(self, x: Tensor) -> Tensor:
        """y - H x, (B, k), in the type of x (B, C, ...)."""
        return self.y.to(x) - self.apply(x)

    def digest(self, *words: str) -> str:
        """16 hexadecimal digits that identify the observation and the words."""
        example = self.backprojected().double()
        seen = self.mask
        if seen is None:
            # H^T of fixed random numbers, which is different for different maps.
            generator = torch.Generator().manual_seed(0)
            seen = self.transpose(torch.randn(1, self.count, generator=generator))
        parts = (part.numpy().tobytes().hex() for part in (example, seen, self.y))
        return f"{key_of(*parts, repr(self.sigma), *words):016x}"

    def backprojected(self) -> Tensor:
        """The example of least norm with H x = y, (C, ...), float32: a picture of y."""
        weights = self.y[None]
        if isinstance(self.gram, Tensor):
            weights = torch.linalg.lstsq(self.gram, weights.T).solution.T
        else:
            weights = weights / self.gram
        return self.transpose(weights.float())[0]


def from_arrays(path: Path, shape: Shape, sigma: float | None = None) -> Observation:
    """The observation in a file of arrays.

    The file has one of three pairs, and may have sigma, a number:

    - x (C, ...) and mask (bool, or 0 and 1; shaped as x or as its last dimensions)
    - y (k,) and matrix (k, d)
    - y (C, h, w), a small image, and factor, a number

    Args:
        shape: the shape of one example.
        sigma: the noise if the file has no sigma; None means 0.

    Raises:
        WrongSourceError: the file is missing or is not an .npz file.
        UsageError: its arrays are none of these pairs, or do not fit each other or ``shape``; or
            ``sigma`` is passed and the file has sigma, too.
    """
    try:
        content, _ = npz.load(path)
    except (OSError, npz.DamagedError) as error:
        raise WrongSourceError(
            f"{path} cannot be read as an observation: {one_line(error).rstrip('.')}. Pass a file "
            f"that np.savez wrote, with {_FORMS}."
        ) from error
    names = set(content)
    if "sigma" in names and sigma is not None:
        raise UsageError(f"{path} has sigma, and --sigma is given. Leave out one of them.")
    try:
        std = sigma or 0.0
        if "sigma" in names:
            std = float(content["sigma"])
        match sorted(names - {"sigma"}):
            case ["mask", "x"]:
                x = _numbers(content["x"])
                observation = Observation.masked(x, _mask(content["mask"]), std)
            case ["matrix", "y"]:
                matrix = _numbers(content["matrix"])
                observation = Observation.linear(matrix, _numbers(content["y"]), std, shape)
            case ["factor", "y"]:
                y = _numbers(content["y"])
                observation = Observation.downscaled(y, _whole(content["factor"]), std)
            case _ if not names:
                raise UsageError("it has no arrays")
            case _:
                raise UsageError(f"it has the arrays {one_line(', '.join(sorted(names)), 200)}")
        if observation.shape != tuple(shape):
            raise UsageError(f"its examples have the shape {observation.shape}")
        return observation
    except (UsageError, ValueError, TypeError, RuntimeError) as error:
        raise UsageError(
            f"{path}: {one_line(error).rstrip('.')}. Pass {_FORMS}; an example has the shape "
            f"{tuple(shape)}."
        ) from error


def from_pictures(
    picture: Path, mask: Path, shape: Shape, sigma: float | None = None
) -> Observation:
    """Inpainting: a picture, and a mask that is black where the picture is known, else white.

    Args:
        shape: the shape of one example, (C, H, W), with C = 3, or C = 1, for which colours become
            grey. Both files have H x W pixels.
        sigma: the noise of the picture; None means 0.

    Raises:
        WrongSourceError: a file is missing, or has another size.
        DataError: a file is not a picture.
        UsageError: the mask is white everywhere, or black everywhere and sigma is 0; sigma is not a
            standard deviation; or examples are not square pictures.
    """
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise UsageError(
            f"examples of shape {tuple(shape)} are not square pictures. Pass --observe with a file "
            "of arrays."
        )
    pixels = _picture(picture, shape)
    white = _picture(mask, (3, *shape[1:])).float().mean(0) > 127.5
    if white.all():
        raise UsageError(
            f"{mask} is white everywhere: nothing is known. Make it black where the picture is "
            "known, white elsewhere."
        )
    if not white.any() and not sigma:
        raise UsageError(
            f"{mask} is black everywhere: there is nothing to paint. Make it black where the "
            "picture is known, white elsewhere."
        )
    return Observation.masked(to_model(pixels), ~white, sigma or 0.0)


def _picture(path: Path, shape: Shape) -> Tensor:
    """The picture in a file, uint8, (C, H, W); see `from_pictures` for the errors."""
    if not path.is_file():
        raise WrongSourceError(
            f"{path} is not a file. Pass a picture of {shape[2]} x {shape[1]} pixels."
        )
    try:
        pixels = read_exactly(path, shape[2], shape[0])
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {one_line(error)}. Check its permissions."
        ) from error
    return torch.from_numpy(pixels[0].copy())


def _numbers(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise UsageError(f"an array has the type {array.dtype}, and numbers are expected")
    return torch.from_numpy(array.astype(np.float64))


def _whole(array: np.ndarray) -> int:
    value = float(array)
    if not value.is_integer():
        raise UsageError(f"factor is {value:g}, and a whole number is expected")
    return int(value)


def _mask(array: np.ndarray) -> Tensor:
    if not np.isin(array, (0, 1)).all():
        raise UsageError("the mask has other values than 0 and 1")
    return torch.from_numpy(array.astype(bool))


def coordinate(number: int, value: float, sigma: float | None = None) -> Observation:
    """An observation of one coordinate of a point on the plane: ``number`` is 0 or 1."""
    mask = torch.tensor([number == 0, number == 1])
    return Observation.masked(torch.full((2,), value, dtype=torch.float64), mask, sigma or 0.0)
