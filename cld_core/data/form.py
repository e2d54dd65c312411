"""The form of examples: what a model has to know of its data to draw samples where the data are
not."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
# Names of files or folders of test examples.
TEST_NAMES = ("test", "validation", "valid", "val")
# Of a pixel.
GREY_LEVELS = 256
# Of one example: no model that fits a machine has more numbers, or more axes.
MOST_NUMBERS, _MOST_AXES = 2**28, 4


@dataclass(frozen=True, kw_only=True)
class Form:
    """What examples are, and how the model sees them: as z, where data are x = scale z + shift.

    Attributes:
        shape: of one example: (d), (C, L) or (C, H, W).
        grey_levels: of a pixel, over [-1, 1]; None if data are real numbers.
        scale: one number for each feature of vectors (d), for each channel of others (C, ...),
            above 0; empty: the model sees the data as they are.
        shift: likewise.
        bounds: the smallest and the largest number of the training data, if they are real numbers
            and known.

    Raises:
        ValueError: it cannot be the form of data.
    """

    shape: tuple[int, ...]
    grey_levels: int | None = None
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        size = math.prod(self.shape)
        if not 1 <= len(self.shape) <= _MOST_AXES or min(self.shape) < 1 or size > MOST_NUMBERS:
            raise ValueError("its data have a shape that cannot be")
        if self.grey_levels not in (None, GREY_LEVELS):
            raise ValueError(f"its data have {self.grey_levels} grey levels")
        if {len(self.scale), len(self.shift)} not in ({0}, {self.shape[0]}):
            raise ValueError("its data have another number of channels than their scaling")
        if (
            not all(map(math.isfinite, (*self.scale, *self.shift)))
            or min(self.scale, default=1.0) <= 0
        ):
            raise ValueError(
                "its scaling has a factor that is not above 0, or a number that is not finite"
            )

    @property
    def kind(self) -> Literal["vectors", "curves", "images", "fields"]:
        """What examples are: vectors (d), curves (C, L), images (1 or 3, H, W), or fields, all
        others."""
        if len(self.shape) > 2:
            return "images" if len(self.shape) == 3 and self.shape[0] in (1, 3) else "fields"
        return "vectors" if len(self.shape) == 1 else "curves"

    def to_data(self, z: "Tensor") -> "Tensor":
        """Data (B, C, ...) of what the model draws, in its type."""
        return z * self._spread(self.scale, z) + self._spread(self.shift, z) if self.scale else z

    def to_model(self, x: "Tensor") -> "Tensor":
        """What the model sees of data (B, C, ...), in their type."""
        return (x - self._spread(self.shift, x)) / self._spread(self.scale, x) if self.scale else x

    @staticmethod
    def _spread(numbers: tuple[float, ...], like: "Tensor") -> "Tensor":
        return like.new_tensor(numbers).view(-1, *[1] * (like.ndim - 2))

    @property
    def log_det(self) -> float:
        """log |dx/dz| of an example: log p(x) = log p(z) - log_det."""
        return math.fsum(map(math.log, self.scale)) * math.prod(self.shape[1:])
