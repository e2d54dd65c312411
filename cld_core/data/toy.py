"""Toy densities on the plane: how to sample them and, if known, the density and its entropy.

A plug-in adds its own (docs/howto/own-density.md)::

    from cld_core.data.toy import toy

    @toy("ring")
    def ring(n, generator):
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        return torch.stack([angle.cos(), angle.sin()], dim=1)
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cld_core import analytic, plugins, seeds
from cld_core.analytic import GaussianMixture
from cld_core.classes import Classes, numbered
from cld_core.config.data import ToyDataSpec
from cld_core.config.keys import Shape
from cld_core.errors import DataError, WrongSourceError, did_you_mean

Sampler = Callable[[int, torch.Generator], Tensor]
# (n, 2) -> (n,)
PointFunction = Callable[[Tensor], Tensor]
# (n, 2), a class -> (n,)
ClassFunction = Callable[[Tensor, int], Tensor]
# x (n,), y (m,) -> (n, m)
GridFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Toy:
    """A registered density, on R^2 unless it has another shape."""

    name: str
    # (n, generator) -> (n, *data_shape), float32
    sample: Sampler
    # float64, nats
    log_density: PointFunction | None = None
    # nats; computed on first use, then kept
    entropy: Callable[[], float] | None = None
    # the density, if that is faster than by `log_density`
    on_grid: GridFunction | None = None
    # int64: the classes of points
    label: PointFunction | None = None
    # the classes of the labels, weighted by their probabilities
    classes: Classes | None = None
    # the log-density given the class, float64, nats
    given: ClassFunction | None = None
    data_shape: Shape = (2,)

    def log_density_of(self, label: int | None) -> PointFunction | None:
        """The log-density of the points of a class; None if it is not known.

        Without `given`, it is the normalised log-density of all points, and minus infinity at the
        points of other classes.

        Args:
            label: the class; None for all points.
        """
        whole = self.log_density
        label_of = self.label
        of_class = self.given
        if label is None:
            return whole
        if of_class is not None:
            return lambda x: of_class(x, label)
        share = 0.0 if self.classes is None else self.classes.shares[label]
        if whole is None or label_of is None or not share:
            return None
        return lambda x: torch.where(label_of(x) == label, whole(x) - math.log(share), -math.inf)


_SOURCE = "cld_core.data.toy:ToySource"
_REGISTRY = plugins.table("toys", {})


def toy(
    name: str,
    *,
    log_density: PointFunction | None = None,
    entropy: Callable[[], float] | None = None,
    on_grid: GridFunction | None = None,
    label: PointFunction | None = None,
    classes: Sequence[float] | None = None,
    given: ClassFunction | None = None,
    shape: Sequence[int] = (2,),
) -> Callable[[Sampler], Sampler]:
    """Register a sampling function (n, generator) -> (n, 2) float32 as ``data.name``.

    The other arguments are the attributes of `Toy`, except for these.

    Args:
        classes: the probabilities of the labels 0, 1, ...
        shape: the shape of one example; ``on_grid`` is for points in the plane only.

    Raises:
        DataError: only one of ``label`` and ``classes`` is given.
        RecipeError: the name belongs to data that cldctl ships.
    """
    if (label is None) != (classes is None):
        raise DataError(
            f"toy data {name!r} has only one of `label` and `classes`. Give both, or neither."
        )

    def register(sampler: Sampler) -> Sampler:
        density = Toy(
            name=name,
            sample=sampler,
            log_density=log_density,
            entropy=None if entropy is None else functools.cache(entropy),
            on_grid=on_grid,
            label=label,
            classes=None if classes is None else numbered(classes),
            given=given,
            data_shape=tuple(shape),
        )
        if sampler.__module__ == __name__:
            _REGISTRY[name] = density
        else:
            plugins.register("data", name, _SOURCE, ToyDataSpec)
            plugins.register("toys", name, density)
        return sampler

    return register


def get(name: str) -> Toy:
    """The toy density ``name``.

    Raises:
        WrongSourceError: no toy density has this name.
    """
    if name not in _REGISTRY:
        hint = did_you_mean(name, _REGISTRY) or " Name the file that registers it in `plugins`."
        raise WrongSourceError(
            f"no toy data {name!r}; there are {', '.join(sorted(_REGISTRY))}.{hint}"
        )
    density: Toy = _REGISTRY[name]
    return density


class ToySource:
    """Draws from a toy density, fresh ones for each step. See `cld_core.data.source.Source`."""

    grey_levels: int | None = None
    wait_s = 0.0

    def __init__(self, spec: ToyDataSpec, device: torch.device | str = "cpu") -> None:
        """The density of a recipe. Batches are always made on the CPU.

        Raises:
            DataError: there is no such density, or the recipe uses labels and it has none.
        """
        self._toy = get(spec.name)
        self.density: Toy | None = self._toy
        self.shape = self._toy.data_shape
        self.classes: Classes | None = self._toy.classes if spec.labels else None
        if spec.labels and self.classes is None:
            raise DataError(
                f"toy data {spec.name!r} have no labels. Set data.labels=false, or choose diamond "
                "or multimodal_swissroll."
            )
        self._generator = torch.Generator()

    def _sample(self, size: int, generator: torch.Generator) -> Tensor:
        x = self._toy.sample(size, generator)
        if x.shape != (size, *self.shape):
            raise DataError(
                f"toy data {self._toy.name!r} returned shape {tuple(x.shape)} for n = {size}, not "
                f"{(size, *self.shape)}. Fix its function, or declare what it returns: "
                f"@toy({self._toy.name!r}, shape={tuple(x.shape[1:])})."
            )
        return x

    def batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> Tensor:
        self._generator.manual_seed(seeds.key_of(seed, restart, step, "data"))
        return self._sample(size, self._generator)[rows]

    def dequantised_test_data(self, seed: int, first: int, last: int) -> Tensor:
        # Drawn in whole blocks, so that point i does not depend on the requested range.
        blocks, rows = seeds.blocks_of(first, last)
        generators = [seeds.generator(seed, "test", block) for block in blocks]
        samples = [self._sample(seeds.SAMPLE_BLOCK, generator) for generator in generators]
        return torch.cat(samples)[rows]

    test_data = dequantised_test_data

    def labelled_batch(
        self, seed: int, restart: int, step: int, size: int, rows: slice
    ) -> tuple[Tensor, Tensor]:
        x = self.batch(seed, restart, step, size, rows)
        return x, self._labels(x)

    def test_labels(self, seed: int, first: int, last: int) -> Tensor:
        return self._labels(self.test_data(seed, first, last))

    def _labels(self, x: Tensor) -> Tensor:
        assert self._toy.label is not None, "data with classes have labels"
        return self._toy.label(x)

    def close(self) -> None:
        """Do nothing, because nothing is read ahead."""


_ROLL_SCALE = 0.01
_ROLL_STD = 0.2 * _ROLL_SCALE
_ROLL_START = 1.5 * math.pi
_ROLL_END = 4.5 * math.pi
_ROLL_CENTRES = torch.tensor(
    [(0.0, 0.0), (0.8, 0.8), (0.8, -0.8), (-0.8, -0.8), (-0.8, 0.8)], dtype=torch.float64
)
# Panels of 32 Gauss-Legendre nodes along a roll: nodes are at most one noise std of arc apart, so
# the rule is exact to 1e-12 (tests/cld_core/data/test_toy.py).
_ROLL_PANELS = 48


def _spiral(angle: Tensor) -> Tensor:
    return _ROLL_SCALE * torch.stack([angle * angle.cos(), angle * angle.sin()], dim=-1)


@functools.cache
def _roll() -> GaussianMixture:
    """One roll at the origin: the integral over its uniform angle as a weighted mixture."""
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(32))
    width = (_ROLL_END - _ROLL_START) / _ROLL_PANELS
    middles = _ROLL_START + width * (torch.arange(_ROLL_PANELS, dtype=torch.float64) + 0.5)
    angle = (middles[:, None] + 0.5 * width * nodes).flatten()
    return GaussianMixture(_spiral(angle), _ROLL_STD, weights.repeat(_ROLL_PANELS))


def _swissroll_log_density(x: Tensor) -> Tensor:
    # Rolls are 350 noise stds apart: at any point, the densities of all but the nearest one are 0
    # in float64.
    x = x.double()
    return _roll().log_density(x - _ROLL_CENTRES[_nearest_roll(x)]) - math.log(len(_ROLL_CENTRES))


def _log_density_of_roll(x: Tensor, label: int) -> Tensor:
    return _roll().log_density(x.double() - _ROLL_CENTRES[label])


def _nearest_roll(x: Tensor) -> Tensor:
    return torch.cdist(x.double(), _ROLL_CENTRES).argmin(1)


def _swissroll_entropy() -> float:
    return _roll().entropy() + math.log(len(_ROLL_CENTRES))


def _swissroll_on_grid(x: Tensor, y: Tensor) -> Tensor:
    rolls = [_roll().density_on_grid(x - right, y - up) for right, up in _ROLL_CENTRES.tolist()]
    return torch.stack(rolls).mean(0)


@toy(
    "multimodal_swissroll",
    log_density=_swissroll_log_density,
    entropy=_swissroll_entropy,
    on_grid=_swissroll_on_grid,
    label=_nearest_roll,
    classes=[1 / 5] * 5,
    given=_log_density_of_roll,
)
def multimodal_swissroll(n: int, generator: torch.Generator) -> Tensor:
    """Five Swiss rolls with equal probability: the paper's toy data."""
    centre = _ROLL_CENTRES[torch.randint(len(_ROLL_CENTRES), (n,), generator=generator)]
    angle = (
        torch.rand(n, generator=generator, dtype=torch.float64) * (_ROLL_END - _ROLL_START)
        + _ROLL_START
    )
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return (centre + _spiral(angle) + _ROLL_STD * noise).float()


_DIAMOND = analytic.diamond()
_GAUSSIAN = analytic.gaussian()


def _nearest_mode(x: Tensor) -> Tensor:
    # Modes are 12 standard deviations apart: points nearer to another one than to their own have a
    # share of 2e-9.
    return torch.cdist(x.double(), _DIAMOND.means).argmin(1)


def _log_density_of_mode(x: Tensor, label: int) -> Tensor:
    return GaussianMixture(_DIAMOND.means[label : label + 1], _DIAMOND.std).log_density(x)


@toy(
    "diamond",
    log_density=_DIAMOND.log_density,
    entropy=_DIAMOND.entropy,
    label=_nearest_mode,
    classes=[1 / 9] * 9,
    given=_log_density_of_mode,
)
def diamond(n: int, generator: torch.Generator) -> Tensor:
    """Nine narrow Gaussians on a rotated grid (`analytic.diamond`)."""
    return _DIAMOND.sample(n, generator)


@toy("gaussian", log_density=_GAUSSIAN.log_density, entropy=_GAUSSIAN.entropy)
def gaussian(n: int, generator: torch.Generator) -> Tensor:
    """N(0, 0.5^2 I), for which everything has a closed form (`analytic.gaussian`)."""
    return _GAUSSIAN.sample(n, generator)


plugins.table("toys", dict(_REGISTRY))
