"""The networks alpha(u, t): ``net(u, t)`` with u (B, 2C or C, ...) and t (B,) gives (B, C, ...)."""

from collections.abc import Callable
from typing import Any

from torch import nn

from cld_core.errors import RecipeError
from cld_core.nets.mlp import MLP
from cld_core.nets.ncsnpp import Ncsnpp
from cld_core.nets.resnet import ResNet


def _vector(data_shape: tuple[int, ...], name: str) -> int:
    if len(data_shape) != 1:
        raise RecipeError(
            f"network {name} takes vectors, but the data have shape {data_shape}. "
            "Choose a network for images, or a toy data set."
        )
    return data_shape[0]


def _mlp(spec: Any, data_shape: tuple[int, ...], halves: int) -> nn.Module:
    d = _vector(data_shape, spec.name)
    return MLP(inputs=halves * d, outputs=d, width=spec.width, layers=spec.layers, time_input=spec.time_input)


def _resnet(spec: Any, data_shape: tuple[int, ...], halves: int) -> nn.Module:
    d = _vector(data_shape, spec.name)
    return ResNet(inputs=halves * d, outputs=d, width=spec.width, layers=spec.layers)


def _ncsnpp(spec: Any, data_shape: tuple[int, ...], halves: int) -> nn.Module:
    wanted = (spec.image_channels, spec.image_size, spec.image_size)
    if data_shape != wanted:
        raise RecipeError(
            f"network ncsnpp takes images of shape {wanted}, but the data have shape {data_shape}. "
            "Set network.image_size and network.image_channels to those of the data."
        )
    return Ncsnpp(spec, channels_in=halves * spec.image_channels, channels_out=spec.image_channels)


# Recipe name -> (spec, data_shape, halves of u) -> module.
NETWORKS: dict[str, Callable[[Any, tuple[int, ...], int], nn.Module]] = {
    "mlp": _mlp,
    "resnet": _resnet,
    "ncsnpp": _ncsnpp,
}


def build(spec: Any, *, data_shape: tuple[int, ...], phase_space: bool) -> nn.Module:
    """The network of a recipe's `network` section for data of shape ``data_shape`` = (C, ...).

    Raises:
        RecipeError: the network does not take data of this shape.
    """
    return NETWORKS[spec.name](spec, data_shape, 2 if phase_space else 1)
