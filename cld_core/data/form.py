"""The form of examples: what a model has to know of its data to draw samples where the data are not."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
# Of a pixel.
GREY_LEVELS = 256
# Of one example: no model that fits a machine has more numbers, or more axes.
MOST_NUMBERS, _MOST_AXES = 2**28, 4


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """x = scale z + shift: data are x, and the model sees z.

    Attributes:
        scale: one number for each feature of vectors (d), for each channel of others (C, ...); above 0.
        shift: likewise.

    Raises:
        ValueError: they are not as many, not finite, or a scale is not above 0.
    """

    scale: tuple[float, ...]
    shift: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.shift) or not self.scale:
            raise ValueError("its scaling has not as many factors as shifts")
        if not all(map(math.isfinite, (*self.scale, *self.shift))) or min(self.scale) <= 0:
            raise ValueError("its scaling has a factor that is not above 0, or a number that is not finite")

    def to_model(self, x: "Tensor") -> "Tensor":
        """z of x (B, C, ...), in its type."""
        return (x - self._spread(self.shift, x)) / self._spread(self.scale, x)

    def to_data(self, z: "Tensor") -> "Tensor":
        """x of z (B, C, ...), in its type."""
        return z * self._spread(self.scale, z) + self._spread(self.shift, z)

    def log_det(self, shape: tuple[int, ...]) -> float:
        """log |dx/dz| of an example of this shape: log p(x) = log p(z) - log_det."""
        return math.fsum(map(math.log, self.scale)) * math.prod(shape[1:])

    @staticmethod
    def _spread(numbers: tuple[float, ...], like: "Tensor") -> "Tensor":
        return like.new_tensor(numbers).view(-1, *[1] * (like.ndim - 2))


@dataclass(frozen=True, kw_only=True)
class Form:
    """What examples are, and how the model sees them.

    Attributes:
        shape: of one example: (d), (C, L) or (C, H, W).
        grey_levels: of a pixel, over [-1, 1]; None if data are real numbers.
        scaling: None: the model sees the data as they are.
        bounds: the smallest and the largest number of the training data, if they are real numbers and known.

    Raises:
        ValueError: it cannot be the form of data.
    """

    shape: tuple[int, ...]
    grey_levels: int | None = None
    scaling: Scaling | None = None
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        size = math.prod(self.shape)
        if not 1 <= len(self.shape) <= _MOST_AXES or min(self.shape) < 1 or size > MOST_NUMBERS:
            raise ValueError("its data have a shape that cannot be")
        if self.grey_levels not in (None, GREY_LEVELS):
            raise ValueError(f"its data have {self.grey_levels} grey levels")
        if self.scaling is not None and len(self.scaling.scale) != self.shape[0]:
            raise ValueError("its data have another number of channels than their scaling")

    @property
    def are_pictures(self) -> bool:
        """Whether examples can be shown as pictures: (1, H, W) or (3, H, W)."""
        return len(self.shape) == 3 and self.shape[0] in (1, 3)

    def to_data(self, z: "Tensor") -> "Tensor":
        """Data (B, C, ...) of what the model draws."""
        return z if self.scaling is None else self.scaling.to_data(z)

    def to_model(self, x: "Tensor") -> "Tensor":
        """What the model sees of data (B, C, ...)."""
        return x if self.scaling is None else self.scaling.to_model(x)

    @property
    def log_det(self) -> float:
        """log p(x) = log p(z) - log_det, for data x that the model sees as z."""
        return 0.0 if self.scaling is None else self.scaling.log_det(self.shape)
