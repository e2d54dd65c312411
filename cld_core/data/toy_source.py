"""Toy densities as training and evaluation use them."""

import torch
from torch import Tensor

from cld_core import seeds
from cld_core.classes import Classes
from cld_core.config.data import ToyDataSpec
from cld_core.errors import DataError

from . import toy


class ToySource:
    """Endless draws from a toy density, fresh ones for each step. See `cld_core.data.source.Source`."""

    grey_levels: int | None = None
    wait_s = 0.0

    def __init__(self, spec: ToyDataSpec, device: torch.device | str = "cpu") -> None:
        """The density of a recipe. Batches are made on the CPU, whatever the device.

        Raises:
            DataError: there is no such density, or it has no labels if they are wanted.
        """
        self._toy = toy.get(spec.name)
        self.density: toy.Toy | None = self._toy
        self.shape = self._toy.data_shape
        self.classes: Classes | None = self._toy.classes if spec.labels else None
        if spec.labels and self.classes is None:
            text = f"toy data {spec.name!r} have no labels. Set data.labels=false, or choose diamond"
            raise DataError(f"{text} or multimodal_swissroll.")
        self._generator = torch.Generator()

    def _sample(self, size: int, generator: torch.Generator) -> Tensor:
        x = self._toy.sample(size, generator)
        if x.shape != (size, *self.shape):
            text = f"returned shape {tuple(x.shape)} for n = {size}, not {(size, *self.shape)}. Fix its function"
            raise DataError(f"toy data {self._toy.name!r} {text}.")
        return x

    def batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> Tensor:
        self._generator.manual_seed(seeds.key_of(seed, restart, step, "data"))
        return self._sample(size, self._generator)[rows]

    def dequantised_test_data(self, seed: int, first: int, last: int) -> Tensor:
        # Drawn in whole blocks, so that point i does not depend on the requested range.
        size = seeds.SAMPLE_BLOCK
        blocks = range(first // size, (last - 1) // size + 1)
        drawn = [self._sample(size, seeds.generator(seed, "test", block)) for block in blocks]
        start = first - blocks[0] * size
        return torch.cat(drawn)[start : start + last - first]

    def test_data(self, seed: int, first: int, last: int) -> Tensor:
        return self.dequantised_test_data(seed, first, last)

    def labelled_batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> tuple[Tensor, Tensor]:
        x = self.batch(seed, restart, step, size, rows)
        return x, self._labels(x)

    def test_labels(self, seed: int, first: int, last: int) -> Tensor:
        return self._labels(self.test_data(seed, first, last))

    def _labels(self, x: Tensor) -> Tensor:
        assert self._toy.label is not None, "data with classes have labels"
        return self._toy.label(x)

    def close(self) -> None:
        """Nothing reads ahead."""
