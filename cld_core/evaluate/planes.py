"""Points of toy data in the plane, drawn over the true density."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cld_core.data.source import Source, labelled
from cld_core.data.toy import Toy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Points on a side at which the density is evaluated for the background.
_GRID = 480
# The area of a dot, in square points of 1/72 inch: narrow lines stay lines, and a few hundred dots can still be seen.
_DOT = 1.6
# The limits of the axes come from so many test points at least; more than the second number are never drawn.
_EXAMPLES, _MOST_EXAMPLES = 2048, 20_000

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Plane:
    """The part of the plane that a picture of toy data shows.

    Attributes:
        low: lower left corner, (2,).
        high: upper right corner, (2,).
        examples: (m, 2), test data.
        shade: (_GRID, _GRID), the square root of the density over its maximum; None if the density is not known.
    """

    low: Array
    high: Array
    examples: Array
    shade: Array | None

    @classmethod
    def of(cls, source: Source, n: int = 0, label: int | None = None) -> "Plane":
        """A square around the test data of a source, with a margin, and data to show beside n samples.

        Args:
            label: shows the examples of this class alone, over their density.
        """
        examples = source.dequantised_test_data(0, 0, max(_EXAMPLES, min(n, _MOST_EXAMPLES))).double().numpy()
        low, high = examples.min(0), examples.max(0)
        middle, half = (low + high) / 2, 0.55 * (high - low).max()
        low, high = middle - half, middle + half
        shade = None if source.density is None else _shade(source.density, tuple(low), tuple(high), label)
        if label is not None:
            examples = examples[labelled(source).test_labels(0, 0, len(examples)).numpy() == label]
        return cls(low, high, examples[:n] if n else examples, shade)

    def draw(self, axes: "Axes", points: Tensor | Array, colour: str) -> int:
        """Draw points (n, 2) over the density; returns how many are outside of the picture, or not finite."""
        points = np.asarray(points, dtype=np.float64)
        if self.shade is not None:
            extent = (self.low[0], self.high[0], self.low[1], self.high[1])
            axes.imshow(self.shade, origin="lower", extent=extent, cmap="Blues", vmax=1.4, aspect="equal")
        inside = ((points > self.low) & (points < self.high)).all(1)
        axes.scatter(points[inside, 0], points[inside, 1], s=_DOT, c=colour, alpha=0.6, linewidths=0)
        axes.set_xlim(self.low[0], self.high[0])
        axes.set_ylim(self.low[1], self.high[1])
        # A ring is a ring.
        axes.set_aspect("equal")
        return len(points) - int(inside.sum())


# The pictures of a run show the same square, and its density may take half a second.
@functools.lru_cache(maxsize=8)
def _shade(density: Toy, low: tuple[float, ...], high: tuple[float, ...], label: int | None) -> Array | None:
    x, y = (torch.linspace(low[i], high[i], _GRID, dtype=torch.float64) for i in range(2))
    shade = shade_of(density, x, y, label)
    if shade is not None:
        shade.flags.writeable = False
    return shade


def shade_of(density: Toy, x: Tensor, y: Tensor, label: int | None = None) -> Array | None:
    """The square root of the density over its maximum, a row for each y; None if the density is not known.

    Args:
        label: of the class whose density it is; None for all points.
    """
    if density.on_grid is not None and label is None:
        p = density.on_grid(x, y).T
        return (p / p.max()).sqrt().numpy()
    log_density = density.log_density_of(label)
    if log_density is None:
        return None
    log_p = log_density(torch.cartesian_prod(x, y)).reshape(len(x), len(y)).T
    return torch.exp(0.5 * (log_p - log_p.max())).numpy()
