"""The `network` section: one spec for each network."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from .keys import Problem, key, shown

# Weights of a network for toy data: with gradients and moments, so many take 160 GB.
MAX_WEIGHTS = 10**10
# Numbers by which the network is told how an image was changed (`cld_core.train.step`).
CONDITIONS = 9


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What every network has.

    Attributes:
        images: it takes images; otherwise vectors.
        takes_labels: it can be built for the classes of labelled data.
    """

    images: ClassVar[bool] = False
    takes_labels: ClassVar[bool] = False

    name: str


def _problems(spec: "MlpSpec | ResnetSpec") -> Iterator[Problem]:
    if spec.width**2 * spec.layers > MAX_WEIGHTS:
        text = f"is {spec.width} in {spec.layers} layers: more than {MAX_WEIGHTS:g} weights. Lower one of them."
        yield "width", "layers", text


@dataclass(frozen=True, kw_only=True)
class MlpSpec(NetworkSpec):
    takes_labels: ClassVar[bool] = True

    name: Literal["mlp"] = key("mlp", "fully connected network for toy data")
    width: int = key(128, "units of a hidden layer", ge=1, le=65_536)
    layers: int = key(5, "linear layers, including the output layer", ge=2, le=1000)
    time_input: Literal["raw", "log", "fourier"] = key(
        "raw", "what is appended to the input: t, log t, or waves of log t"
    )
    input_features: int = key(
        0,
        "random Fourier features of x (a sine and a cosine each) that are appended to the input; 0: none",
        ge=0,
        le=16_384,
    )
    input_scale: float = key(
        2.0, "standard deviation of the frequencies of these features, in cycles per unit of x", gt=0
    )

    problems = _problems


@dataclass(frozen=True, kw_only=True)
class ResnetSpec(NetworkSpec):
    takes_labels: ClassVar[bool] = True

    name: Literal["resnet"] = key("resnet", "residual network for toy data, with log t at every layer")
    width: int = key(64, "units of a hidden layer", ge=1, le=65_536)
    layers: int = key(20, "residual layers between the first and the last", ge=1, le=1000)

    problems = _problems


@dataclass(frozen=True, kw_only=True)
class NcsnppSpec(NetworkSpec):
    """NCSN++ (Song et al. 2021, appendix H). The defaults are those of CLD's CIFAR-10 model."""

    images: ClassVar[bool] = True
    takes_labels: ClassVar[bool] = True

    name: Literal["ncsnpp"] = key("ncsnpp", "NCSN++, the U-Net for images")
    image_size: int = key(32, "height and width of an image in pixels", ge=1, le=4096)
    image_channels: int = key(3, "colour channels of an image", ge=1, le=64)
    channels: int = key(128, "channels at full resolution", ge=4, le=8192)
    multipliers: tuple[int, ...] = key((1, 2, 2, 2), "channels of each resolution, as multiples of `channels`")
    blocks: int = key(8, "residual blocks of each resolution on the way down; one more on the way up", ge=1, le=256)
    attention: tuple[int, ...] = key((16,), "resolutions, in pixels, that get self-attention")
    resblock: Literal["biggan", "ddpm"] = key("biggan", "what resamples: a residual block, or a separate layer")
    fir: bool = key(True, "resample with the FIR filter; false: nearest neighbour and 2x2 average")
    fir_kernel: tuple[int, ...] = key((1, 3, 3, 1), "taps of the FIR filter: symmetric, and an even number of them")
    resample_with_conv: bool = key(True, "ddpm blocks only: a 3x3 convolution in every resampling layer")
    progressive_input: Literal["none", "input_skip", "residual"] = key(
        "residual", "how the input at lower resolutions enters on the way down"
    )
    progressive_output: Literal["none", "output_skip", "residual"] = key(
        "none", "how lower resolutions contribute to the output on the way up"
    )
    combine: Literal["sum", "cat"] = key("sum", "input_skip only: how the input is merged")
    embedding: Literal["fourier", "positional"] = key("fourier", "random features of log t, or sinusoids of t")
    fourier_scale: float = key(16.0, "standard deviation of the Fourier frequencies", gt=0)
    nonlinearity: Literal["swish", "relu", "elu", "lrelu"] = key("swish", "activation function")
    skip_rescale: bool = key(True, "divide every sum of two branches by the square root of 2")
    dropout: float = key(0.1, "probability of dropping a unit between a block's convolutions", ge=0, lt=1)
    init_scale: float = key(0.0, "initial variance scale of each branch's last layer; 0: nearly zero", ge=0)
    augment: float = key(
        0.0,
        "probability of each geometric augmentation, on which the network is conditioned; 0: no augmentation",
        ge=0,
        le=1,
    )

    def problems(self) -> Iterator[Problem]:
        multipliers = self.multipliers
        taps = self.fir_kernel
        halvings = len(self.multipliers) - 1
        if not 1 <= len(multipliers) <= 12 or not 1 <= min(multipliers) <= max(multipliers) <= 256:
            text = "give at least one whole number >= 1, at most 12, none above 256"
            yield "multipliers", "multipliers", f"cannot be {shown(list(multipliers))}: {text}."
        elif self.image_size % 2**halvings:
            text = f"is {self.image_size}, which cannot be halved {halvings} times"
            yield "image_size", "multipliers", f"{text}: use a multiple of {2**halvings} or fewer multipliers."
        elif unknown := sorted(set(self.attention) - set(self.resolutions)):
            text = f"is {shown(list(self.attention))}, but the network never has {shown(unknown)} pixels"
            yield "attention", "multipliers", f"{text}: choose among {list(self.resolutions)}."
        if not taps or len(taps) % 2 or taps != taps[::-1] or sum(taps) == 0:
            text = "give an even number of symmetric taps, such as [1, 3, 3, 1]"
            yield "fir_kernel", "fir_kernel", f"cannot be {shown(list(taps))}: {text}."
        if self.embedding == "positional" and self.channels % 2:
            text = f"is {self.channels}, but the positional embedding needs an even number. Change it by one."
            yield "channels", "embedding", text

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Height and width of each level in pixels, full resolution first."""
        return tuple(self.image_size >> level for level in range(len(self.multipliers)))
