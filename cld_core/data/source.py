"""The interface through which training and evaluation get their data, whatever the data set."""

from typing import Protocol

import torch
from torch import Tensor

from cld_core.recipe import variants
from cld_core.recipe.data import DataSpec

from .toy import Toy


class Source(Protocol):
    """Examples by number: a batch is a function of its arguments alone."""

    shape: tuple[int, ...]  # of one example, (C, ...)
    density: Toy | None  # if the distribution of the data is known by name
    grey_levels: int | None  # of an image's pixel, over [-1, 1]; None if data are real numbers
    wait_s: float  # seconds spent waiting for the last batch

    def batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> Tensor:
        """Rows ``rows`` of the global batch of ``size`` examples of a step, (len(rows), C, ...)."""
        ...

    def dequantised_test_data(self, seed: int, first: int, last: int) -> Tensor:
        """The test points ``first <= i < last``, (last - first, C, ...), as points of a density."""
        ...

    def test_data(self, seed: int, first: int, last: int) -> Tensor:
        """The same examples in the form that training sees: images are not dequantised."""
        ...

    def close(self) -> None:
        """Stop reading ahead."""
        ...


def source(spec: DataSpec, device: torch.device | str = "cpu") -> Source:
    """The data of a recipe's `data` section; images are read when they are first needed.

    Args:
        device: where batches are wanted. Those of images are made there.

    Raises:
        DataError: there is no such toy density.
    """
    made: Source = variants.build("data", spec, device)
    return made
