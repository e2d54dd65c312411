"""The interface through which training and evaluation get their data, whatever the data set."""

import json
from typing import Any, NoReturn, Protocol, cast

import torch
from torch import Tensor

from cld_core.classes import Classes
from cld_core.config import registry
from cld_core.config.data import DataSpec
from cld_core.errors import DataError

from .toy import Toy

# Of one example: no model that fits a machine has more numbers, or more axes.
_MOST_NUMBERS, _MOST_AXES = 2**28, 4


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


def describe(source: Source) -> str:
    """The form of examples, as JSON: their shape, and the grey levels of images."""
    return json.dumps({"shape": list(source.shape), "grey_levels": source.grey_levels})


class DescribedSource:
    """Data of which only the form is known: enough to sample, nothing to train on or to compare with."""

    density: Toy | None = None
    wait_s = 0.0

    def __init__(self, description: Any, why: str) -> None:
        """Data of a form.

        Args:
            description: what `describe` wrote, parsed.
            why: the error of whoever asks for examples.

        Raises:
            ValueError: it is not such a description.
        """
        content = description if isinstance(description, dict) else {}
        shape, grey_levels = content.get("shape"), content.get("grey_levels")
        if not isinstance(shape, list) or not 1 <= len(shape) <= _MOST_AXES:
            raise ValueError("its data have no shape")
        numbers = 1
        for side in shape:
            if not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= _MOST_NUMBERS:
                raise ValueError("its data have a shape that cannot be")
            numbers *= side
        if numbers > _MOST_NUMBERS or grey_levels not in (None, 256):
            raise ValueError("its data have a form that cannot be")
        self.shape: tuple[int, ...] = tuple(shape)
        self.grey_levels: int | None = None if grey_levels is None else int(grey_levels)
        self._why = why

    def batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> Tensor:
        """Raises DataError, as the others do."""
        self._refuse()

    def dequantised_test_data(self, seed: int, first: int, last: int) -> Tensor:
        self._refuse()

    def test_data(self, seed: int, first: int, last: int) -> Tensor:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise DataError(self._why)

    def close(self) -> None:
        """Nothing reads ahead."""
