"""What every logger can do. A logger belongs to rank 0, and to one attempt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from cld_core.config import Recipe
from cld_core.run import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

# How the training ended that a logger was for: "stopped" continues in another attempt.
End = Literal["finished", "stopped", "failed"]
# Called with how often something could not be written, and with the first reason, once that is over.
Over = Callable[[int, str], object]
# Makes such a function for the logger of a name.
OverOf = Callable[[str], Over]


@dataclass(frozen=True, kw_only=True)
class About:
    """What is logged.

    Attributes:
        attempt: its number, from 0.
        first_step: the number of steps that were done when it began.
    """

    folder: RunFolder
    recipe: Recipe
    attempt: int
    first_step: int


class Logger(Protocol):
    """Takes what a training reports. Steps may come again, after a resume from an earlier checkpoint.

    Its methods are called in one thread, with steps that do not fall within an attempt.
    """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Plot values by their name, such as "train/loss"."""

    def text(self, name: str, markdown: str, step: int) -> None:
        """Show a text."""

    def picture(self, name: str, pixels: "Tensor", step: int) -> None:
        """Show a picture, uint8 (H, W, C)."""

    def close(self, end: End) -> None:
        """Write what is left."""
