"""The interface through which training and evaluation get their data, whatever the data set."""

from typing import Protocol, cast

import torch
from torch import Tensor

from cld_core.classes import Classes
from cld_core.config import registry
from cld_core.config.data import DataSpec

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


class LabelledSource(Source, Protocol):
    """A source whose examples have labels, indices of its ``classes``. Others need none of this: see `classes_of`."""

    classes: Classes | None  # None: it can have labels, but the recipe wants none

    def labelled_batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> tuple[Tensor, Tensor]:
        """What `batch` returns, and the labels, (len(rows),), int64, which may be on another device."""
        ...

    def test_labels(self, seed: int, first: int, last: int) -> Tensor:
        """The labels of the test points ``first <= i < last``, (last - first,), int64."""
        ...


def classes_of(source: Source) -> Classes | None:
    """The classes of a source; None if its examples have no labels.

    Raises:
        DataError: labels are wanted, but the data are missing or have none.
    """
    return getattr(source, "classes", None)


def labelled(source: Source) -> LabelledSource:
    """A source with classes, as what it is."""
    return cast(LabelledSource, source)


def source(spec: DataSpec, device: torch.device | str = "cpu") -> Source:
    """The data of a recipe's `data` section; images are read when they are first needed.

    Args:
        device: where batches are wanted. Those of images are made there.

    Raises:
        DataError: there is no such toy density.
    """
    made: Source = registry.build("data", spec, device)
    return made
