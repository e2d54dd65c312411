"""The `network` section: one spec for each network."""

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, ClassVar, Literal, Self

from .keys import Problem, Shape, key, shown, spec_class

# A key of a network, and the rest of the sentence that begins with the key: why its value does not
# fit examples of some shape, and the fix.
Misfit = tuple[str, str]

# Weights of a network for toy data: with gradients and moments, so many take 160 GB.
MAX_WEIGHTS = 10**10
# Numbers that tell the network how an image was augmented (`cld_core.train.step`).
CONDITIONS = 9
# By default, the first resolution of at most so many pixels a side gets self-attention.
ATTENTION = 16


@spec_class
class NetworkSpec:
    """The base of the specs of networks, also of your own (docs/howto/own-network.md).

    Attributes:
        takes_labels: whether it can be built for the classes of labelled data.
        axes: the axes of its examples: 1 for (d), 2 for (C, L), 3 for (C, H, W); 0 for any.
    """

    takes_labels: ClassVar[bool] = False
    axes: ClassVar[int] = 0

    name: str

    def misfits(self, shape: Shape) -> Iterator[Misfit]:
        """Why it cannot take examples of a shape, (d), (C, L) or (C, H, W); nothing if it can."""
        if self.axes not in (0, len(shape)):
            fix = "Reshape the examples to (d), (C, L) or (C, H, W)"
            if len(shape) in (1, 2, 3):
                fix = f"Set network.name={('mlp', 'unet1d', 'ncsnpp')[len(shape) - 1]}"
            yield "name", f"cannot be {self.name} for examples of shape {shape}. {fix}."


@spec_class
class ModuleSpec(NetworkSpec):
    """A module that was passed to `cld_core.fit`: only its weights are known."""

    takes_labels = True

    name: Literal["module"] = key("module", "a module that is passed in Python")


def _typed(value: Any) -> str:
    """A value in the form of the command line."""
    return shown(list(value) if isinstance(value, tuple) else value).replace(" ", "")


@spec_class
class HiddenLayersSpec(NetworkSpec):
    """The base of the specs of networks for vectors, with hidden layers of one width."""

    takes_labels = True
    axes = 1

    width: int = key(128, "units of a hidden layer", ge=1, le=65_536)
    layers: int

    def problems(self) -> Iterator[Problem]:
        """Pairs of keys of this section that do not go together."""
        if self.width**2 * self.layers > MAX_WEIGHTS:
            yield (
                "width",
                "layers",
                f"is {self.width} in {self.layers} layers: more than {MAX_WEIGHTS:g} weights. "
                "Lower one of them.",
            )


@spec_class
class MlpSpec(HiddenLayersSpec):
    name: str = key("mlp", "fully connected network for vectors")
    layers: int = key(5, "linear layers, including the output layer", ge=2, le=1000)
    time_input: Literal["raw", "log", "fourier"] = key(
        "raw", "what is appended to the input: t, log t, or waves of log t"
    )
    input_features: int = key(
        0,
        "random Fourier features of x (a sine and a cosine each) that are appended to the input; "
        "0: none",
        ge=0,
        le=16_384,
    )
    input_scale: float = key(
        2.0,
        "standard deviation of the frequencies of these features, in cycles per unit of x",
        gt=0,
    )


@spec_class
class ResnetSpec(HiddenLayersSpec):
    name: str = key("resnet", "residual network for vectors, with log t at every layer")
    width: int = 64
    layers: int = key(20, "residual layers between the first and the last", ge=1, le=1000)


@spec_class
class UnetSpec(NetworkSpec):
    """NCSN++ (Song et al. 2021, appendix H) in one or two dimensions; the defaults are those of CLD
    on CIFAR-10."""

    axes = 3
    takes_labels = True

    channels: int = key(128, "channels at full resolution", ge=4, le=8192)
    multipliers: tuple[int, ...] = key(
        (1, 2, 2, 2), "channels of each resolution, as multiples of `channels`"
    )
    blocks: int = key(
        8,
        "residual blocks of each resolution on the way down; one more on the way up",
        ge=1,
        le=256,
    )
    attention: tuple[int, ...] | None = key(
        None,
        "resolutions, the longer side in folded pixels, that get self-attention; "
        "null: the first of at most 16",
    )
    patch: int = key(
        1,
        "fold squares of so many pixels a side, which divide all sides, into channels",
        ge=1,
        le=16,
    )
    resblock: Literal["biggan", "ddpm"] = key(
        "biggan", "what resamples: a residual block, or a separate layer"
    )
    fir: bool = key(True, "resample with the FIR filter; false: nearest neighbour and 2x2 average")
    fir_kernel: tuple[int, ...] = key(
        (1, 3, 3, 1), "taps of the FIR filter: symmetric, and an even number of them"
    )
    resample_with_conv: bool = key(
        True, "ddpm blocks only: a 3x3 convolution in every resampling layer"
    )
    progressive_input: Literal["none", "input_skip", "residual"] = key(
        "residual", "how the input at lower resolutions enters on the way down"
    )
    progressive_output: Literal["none", "output_skip", "residual"] = key(
        "none", "how lower resolutions contribute to the output on the way up"
    )
    combine: Literal["sum", "cat"] = key("sum", "input_skip only: how the input is merged")
    embedding: Literal["fourier", "positional"] = key(
        "fourier", "random features of log t, or sinusoids of t"
    )
    fourier_scale: float = key(16.0, "standard deviation of the Fourier frequencies", gt=0)
    nonlinearity: Literal["swish", "relu", "elu", "lrelu"] = key("swish", "activation function")
    skip_rescale: bool = key(True, "divide every sum of two branches by the square root of 2")
    dropout: float = key(
        0.1, "probability of dropping a unit between a block's convolutions", ge=0, lt=1
    )
    init_scale: float = key(
        0.0, "initial variance scale of each branch's last layer; 0: nearly zero", ge=0
    )

    @property
    def skip_scale(self) -> float:
        """The factor of every sum of two branches."""
        return math.sqrt(0.5) if self.skip_rescale else 1.0

    @property
    def taps(self) -> tuple[int, ...] | None:
        """The taps of the FIR filter; None without one."""
        return self.fir_kernel if self.fir else None

    def problems(self) -> Iterator[Problem]:
        multipliers = self.multipliers
        taps = self.fir_kernel
        if not 1 <= len(multipliers) <= 12 or not 1 <= min(multipliers) <= max(multipliers) <= 256:
            yield (
                "multipliers",
                "multipliers",
                f"cannot be {shown(list(multipliers))}: "
                "give at least one whole number >= 1, at most 12, none above 256.",
            )
        if not taps or len(taps) % 2 or taps != taps[::-1] or sum(taps) == 0:
            yield (
                "fir_kernel",
                "fir_kernel",
                f"cannot be {shown(list(taps))}: "
                "give an even number of symmetric taps, such as [1, 3, 3, 1].",
            )
        if self.embedding == "positional" and self.channels % 2:
            yield (
                "channels",
                "embedding",
                f"is {self.channels}, but the positional embedding needs an even number. "
                "Change it by one.",
            )

    def misfits(self, shape: Shape) -> Iterator[Misfit]:
        yield from super().misfits(shape)
        if len(shape) != self.axes:
            return
        fitting = self.fitting(shape)
        docs = {field.name: field.metadata.get("doc") for field in fields(self)}
        changed = [name for name in docs if getattr(self, name) != getattr(fitting, name)]
        fix = " ".join(f"network.{name}={_typed(getattr(fitting, name))}" for name in changed)
        sizes = ", ".join(map(str, fitting.resolutions(shape[1:])))
        for name in changed:
            yield (
                name,
                f"is {_typed(getattr(self, name))} ({docs[name]}), "
                f"which does not fit examples of shape {shape}. "
                f"The network takes them at resolutions {sizes}. Set {fix}.",
            )

    def fitting(self, shape: Shape) -> Self:
        """This spec, changed to fit examples of a shape, for instance with fewer levels."""
        size = math.gcd(*shape[1:])
        patch = next(n for n in range(self.patch, 0, -1) if size % n == 0)
        levels = next(
            n for n in range(len(self.multipliers), 0, -1) if size % (patch * 2 ** (n - 1)) == 0
        )
        fitted = replace(self, patch=patch, multipliers=self.multipliers[:levels])
        lacks = not set(self.attention or ()) <= set(fitted.resolutions(shape[1:]))
        return replace(fitted, attention=None) if lacks else fitted

    def resolutions(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        """The longer side of each level in folded pixels, full resolution first."""
        return tuple(max(sides) // self.patch >> level for level in range(len(self.multipliers)))

    def attends(self, sides: tuple[int, ...]) -> tuple[bool, ...]:
        """Whether each level has self-attention, for examples with these sides."""
        sizes = self.resolutions(sides)
        chosen = self.attention
        if chosen is None:
            chosen = next(((size,) for size in sizes if size <= ATTENTION), ())
        return tuple(size in chosen for size in sizes)


@spec_class
class NcsnppSpec(UnetSpec):
    """NCSN++ for images."""

    name: str = key("ncsnpp", "NCSN++, the U-Net for images and other data (C, H, W)")
    image_size: int | None = key(
        None, "height and width in pixels; null: those of the data", ge=1, le=4096
    )
    image_channels: int | None = key(
        None, "channels of the data; null: as many as they have", ge=1, le=4096
    )
    augment: float = key(
        0.0,
        "probability of each geometric augmentation of square images, which the network is told; "
        "0: none",
        ge=0,
        le=1,
    )

    def fitting(self, shape: Shape) -> Self:
        fitted = super().fitting(shape)
        channels, height, width = shape
        if height != width:
            fitted = replace(fitted, image_size=None, augment=0.0)
        elif height != self.image_size:
            fitted = replace(fitted, image_size=None)
        if channels != self.image_channels:
            fitted = replace(fitted, image_channels=None)
        return fitted


@spec_class
class Unet1dSpec(UnetSpec):
    """The same network in one dimension."""

    axes = 2

    name: str = key("unet1d", "the U-Net of ncsnpp in one dimension, for curves and series (C, L)")
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    dropout: float = 0.0
    fourier_scale: float = 1.0
