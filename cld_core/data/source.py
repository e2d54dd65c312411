"""What training and evaluation take their data from, whatever the data set."""

from typing import Protocol

import torch
from torch import Tensor

from cld_core import seeds
from cld_core.errors import DataError
from cld_core.recipe.image_spec import ImageDataSpec
from cld_core.recipe.schema import DataSpec

from . import toy
from .image_source import ImageSource


class Source(Protocol):
    """Data by number: a batch is a function of its arguments alone."""

    shape: tuple[int, ...]  # of one datum, (C, ...)
    density: "toy.Toy | None"  # where the law of the data is known by name
    grey_levels: int | None  # of an image's pixel, over [-1, 1]; None where data are real numbers
    wait_s: float  # seconds that the last batch was waited for

    def batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> Tensor:
        """Rows ``rows`` of the global batch of ``size`` data of a step, (len(rows), C, ...)."""
        ...

    def test_points(self, seed: int, first: int, last: int) -> Tensor:
        """The test data ``first <= i < last``, (last - first, C, ...)."""
        ...

    def test_data(self, seed: int, first: int, last: int) -> Tensor:
        """As `test_points`, but in the form that training sees: images are not dequantised."""
        ...

    def close(self) -> None:
        """Stop whatever reads ahead."""
        ...


class ToySource:
    """Endless draws from a toy density; each step has fresh ones."""

    grey_levels: int | None = None
    wait_s = 0.0

    def __init__(self, density: toy.Toy) -> None:
        self.density: toy.Toy | None = density
        self.shape = density.data_shape
        self._toy = density
        self._generator = torch.Generator()

    def _sample(self, size: int, generator: torch.Generator) -> Tensor:
        x = self._toy.sample(size, generator)
        if x.shape != (size, *self.shape):
            text = f"gave {tuple(x.shape)} for n = {size}, not {(size, *self.shape)}. Mend its function"
            raise DataError(f"toy data {self._toy.name!r} {text}.")
        return x

    def batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> Tensor:
        self._generator.manual_seed(seeds.key_of(seed, restart, step, "data"))
        return self._sample(size, self._generator)[rows]

    def test_points(self, seed: int, first: int, last: int) -> Tensor:
        # Drawn in whole blocks, so that point i does not depend on the range it was asked for in.
        size = seeds.SAMPLE_BLOCK
        blocks = range(first // size, (last - 1) // size + 1)
        drawn = [self._sample(size, seeds.generator(seed, "test", block)) for block in blocks]
        start = first - blocks[0] * size
        return torch.cat(drawn)[start : start + last - first]

    def test_data(self, seed: int, first: int, last: int) -> Tensor:
        return self.test_points(seed, first, last)

    def close(self) -> None:
        """Nothing reads ahead."""


def source(spec: DataSpec, device: torch.device | str = "cpu") -> Source:
    """The data of a recipe's `data` section; images are read when they are first asked for.

    Args:
        device: where batches are wanted. Those of images are there already.

    Raises:
        DataError: there is no such toy.
    """
    if isinstance(spec, ImageDataSpec):
        return ImageSource(spec, device)
    return ToySource(toy.get(spec.name, spec.plugin))
