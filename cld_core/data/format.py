"""The form of examples: what a model needs to know about its data to draw samples without them."""

import math
from typing import TYPE_CHECKING, Literal

from cld_core.config.keys import Shape
from cld_core.records import record

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
# Names of files or folders of test examples.
TEST_NAMES = ("test", "validation", "valid", "val")
# The grey levels of a pixel.
GREY_LEVELS = 256
# The most numbers of an example. Models for more fit no machine.
MOST_NUMBERS = 2**28
_MOST_AXES = 4


@record
class DataFormat:
    """The shape and kind of examples x, and their scaling: the model sees z, x = scale z + shift.

    Attributes:
        shape: the shape of one example: (d), (C, L) or (C, H, W).
        grey_levels: the grey levels of a pixel, over [-1, 1]; None if data are real numbers.
        scale: positive numbers, one for each feature of vectors (d), or channel of others (C, ...);
            empty without scaling.
        shift: real numbers, one for each feature or channel; empty without scaling.
        bounds: the smallest and the largest number of the training data, if they are real numbers
            and known.

    Raises:
        ValueError: these values cannot belong to a data set.
    """

    shape: Shape
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
        are_finite = all(map(math.isfinite, (*self.scale, *self.shift)))
        if not are_finite or min(self.scale, default=1.0) <= 0:
            raise ValueError(
                "its scaling has a factor that is not above 0, or a number that is not finite"
            )

    @property
    def kind(self) -> Literal["vectors", "curves", "images", "fields"]:
        """Vectors (d), curves (C, L), images (1 or 3, H, W); fields are all others."""
        if len(self.shape) == 1:
            return "vectors"
        if len(self.shape) == 2:
            return "curves"
        return "images" if len(self.shape) == 3 and self.shape[0] in (1, 3) else "fields"

    def to_data(self, z: "Tensor") -> "Tensor":
        """The data x (B, C, ...) for the numbers z that the model draws, of the same type."""
        if not self.scale:
            return z
        return z * self._spread(self.scale, z) + self._spread(self.shift, z)

    def to_model(self, x: "Tensor") -> "Tensor":
        """The numbers z (B, C, ...) that the model sees in place of data x, of the same type."""
        if not self.scale:
            return x
        return (x - self._spread(self.shift, x)) / self._spread(self.scale, x)

    @staticmethod
    def _spread(numbers: tuple[float, ...], like: "Tensor") -> "Tensor":
        return like.new_tensor(numbers).view(-1, *[1] * (like.ndim - 2))

    @property
    def log_det(self) -> float:
        """log |dx/dz| of an example: log p(x) = log p(z) - log_det."""
        return math.fsum(map(math.log, self.scale)) * math.prod(self.shape[1:])
