"""Images as training and evaluation use them: batches of a step, and test images with uniform dequantisation."""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from cld_core import seeds
from cld_core.classes import Classes
from cld_core.config.data import ImageDataSpec
from cld_core.errors import DataError

from . import image_labels, order, presence, toy
from .images import ImageSet, open_images, to_model
from .store import CHANNELS, Manifest, read_manifest
from .stream import ImageStream

GREY_LEVELS = 256


def dequantise(images: Tensor, noise: Tensor) -> Tensor:
    """uint8 images with uniform noise in [0, 1), for densities: (k + noise)/128 - 1, float32 in [-1, 1).

    A density p of these has 7 bits less per dimension than its discretisation to 256 levels (docs/math.md section 8).
    """
    levels = images.to(torch.float32)
    # Noise near 1 would be rounded up to the next level. Multiples of 2^-16 levels are exact in float32.
    raised = torch.minimum(levels + noise, levels + (1.0 - 2.0**-16))
    return raised * (2.0 / GREY_LEVELS) - 1.0


class ImageSource:
    """A prepared data set. Order and mirroring are keyed by the seed and the step, never by ``restart``.

    So a resumed epoch shows every image once, even if each attempt gets fresh noise.
    """

    density: toy.Toy | None = None
    grey_levels: int | None = GREY_LEVELS

    def __init__(self, spec: ImageDataSpec, device: torch.device | str = "cpu") -> None:
        self.shape: tuple[int, ...] = (CHANNELS, spec.pixels, spec.pixels)
        self.wait_s = 0.0
        self._spec, self._device = spec, torch.device(device)
        self._stream: ImageStream | None = None
        self._streams: tuple[int, int, slice] | None = None

    @cached_property
    def classes(self) -> Classes | None:
        """Those of the images; None if the recipe wants no labels.

        Raises:
            DataError: the images are missing, or have no labels; names the command that prepares them.
        """
        if not self._spec.labels:
            return None
        presence.require(self._spec)
        return image_labels.classes(self._root, self._manifest)

    @property
    def _root(self) -> Path:
        return Path(self._spec.path).expanduser()

    @property
    def _manifest(self) -> Manifest:
        manifest = read_manifest(self._root)
        assert manifest is not None, "images with labels have a manifest"
        return manifest

    @cached_property
    def _train_labels(self) -> Tensor:
        return torch.from_numpy(image_labels.read(self._root, "train", self._manifest))

    @cached_property
    def _test_labels(self) -> Tensor:
        return torch.from_numpy(image_labels.read(self._root, "validation", self._manifest))

    @cached_property
    def train(self) -> ImageSet:
        """The training images.

        Raises:
            DataError: they are missing or not those of the recipe; names the command that prepares them.
        """
        return self._open("train")

    @cached_property
    def test(self) -> ImageSet:
        """The images of the validation split; raises as `train` does."""
        return self._open("validation")

    def _open(self, split: str) -> ImageSet:
        spec = self._spec
        if split != "train":
            # Evaluation reads an image once in minutes: not worth the memory.
            return open_images(spec.path, split, name=spec.name, size=spec.pixels, cache="disk")
        return open_images(spec.path, split, name=spec.name, size=spec.pixels, cache=spec.cache, device=self._device)

    def batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> Tensor:
        """As in `cld_core.data.source.Source`; float32 in [-1, 1] on the source's device. Steps in order are fast."""
        wanted = (seed, size, rows)
        if self._stream is None or self._streams != wanted or self._stream.step != step:
            self.close()
            self._stream = ImageStream(
                self.train,
                seed=seed,
                batch_size=size,
                rows=rows,
                start_step=step,
                flip=self._spec.flip,
                device=self._device,
                threads=self._spec.threads,
            )
            self._streams = wanted
        images = next(self._stream)
        self.wait_s = self._stream.wait_s
        return to_model(images)

    def labelled_batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> tuple[Tensor, Tensor]:
        """As `batch`, with the labels, which are on the CPU."""
        x = self.batch(seed, restart, step, size, rows)
        return x, self._train_labels[order.indices(step, size, self.train.n, seed)[rows]]

    def test_labels(self, seed: int, first: int, last: int) -> Tensor:
        """The labels of the validation images ``first <= i < last``."""
        return self._test_labels[first:last]

    def dequantised_test_data(self, seed: int, first: int, last: int) -> Tensor:
        """Validation images ``first <= i < last``, dequantised; image i has its own noise.

        Raises:
            DataError: there are fewer.
        """
        images = self._test_images(first, last)
        noise = seeds.SampleNoise(seed, "dequantise", first=first, last=last).uniform(self.shape)
        return dequantise(images, noise)

    def test_data(self, seed: int, first: int, last: int) -> Tensor:
        """Validation images ``first <= i < last`` as training sees its own; raises as `dequantised_test_data` does."""
        return to_model(self._test_images(first, last))

    def _test_images(self, first: int, last: int) -> Tensor:
        if last > self.test.n:
            raise DataError(
                f"{self._spec.path} has {self.test.n} validation images, fewer than the {last} asked for. "
                f"Evaluate at most that many: eval.points={self.test.n}, periodic.elbo_points={self.test.n}."
            )
        return self.test.batch(torch.arange(first, last))

    def close(self) -> None:
        """Stop reading ahead."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
