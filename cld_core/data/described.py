"""Data of which only the form is known: enough to sample, nothing to train on or to compare with."""

import json
from typing import Any, NoReturn

from torch import Tensor

from cld_core.errors import DataError

from .source import Source
from .toy import Toy

# Of one example: no model that fits a machine has more numbers, or more axes.
_MOST_NUMBERS, _MOST_AXES = 2**28, 4


def describe(source: Source) -> str:
    """The form of examples, as JSON: their shape, and the grey levels of images."""
    return json.dumps({"shape": list(source.shape), "grey_levels": source.grey_levels})


class DescribedSource:
    """Examples of a known form that cannot be read. See `cld_core.data.source.Source`."""

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
