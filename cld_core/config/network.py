"""The `network` section for toy data; `ncsnpp` has the network for images."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from .keys import key


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


@dataclass(frozen=True, kw_only=True)
class ResnetSpec(NetworkSpec):
    takes_labels: ClassVar[bool] = True

    name: Literal["resnet"] = key("resnet", "residual network for toy data, with log t at every layer")
    width: int = key(64, "units of a hidden layer", ge=1, le=65_536)
    layers: int = key(20, "residual layers between the first and the last", ge=1, le=1000)
