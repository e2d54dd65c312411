"""Whether tensors of a file are those of a recipe's network, seen before any memory is taken for it."""

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from cld_core.config.network import NetworkSpec

from . import build

# Keys of networks of which each unit has a tensor of its own at least.
_REPEATED = ("layers", "blocks")

Shape = tuple[int, ...]


class MisfitError(ValueError):
    """The tensors are not those of the network; names the first that differs."""


def require(
    spec: NetworkSpec,
    shapes: Mapping[str, Shape],
    *,
    data_shape: Shape,
    halves_in: int,
    halves_out: int,
    classes: int = 0,
) -> None:
    """Refuse tensors of other names or shapes than those of the network that `cld_core.nets.build` would make.

    The recipe may be anybody's: a network of more tensors than there are in ``shapes`` is not even described, and none
    is allocated.

    Raises:
        MisfitError: names the first tensor that is missing, unexpected or of another shape.
        RecipeError: there is no such network for data of this shape.
        RuntimeError: a shape is too large for torch.
    """
    for key in _REPEATED:
        if getattr(spec, key, 0) > len(shapes):
            raise MisfitError(f"Missing tensors: network.{key}={getattr(spec, key)} needs more than {len(shapes)}")
    with torch.device("meta"), _AtMost(len(shapes)):
        net = build(spec, data_shape=data_shape, halves_in=halves_in, halves_out=halves_out, classes=classes)
    own = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    for name, shape in own.items():
        if name not in shapes:
            raise MisfitError(f"Missing tensor {name} of shape {shape}")
        if shapes[name] != shape:
            raise MisfitError(f"size mismatch for {name}: {shapes[name]}, not {shape}")
    for name in shapes:
        if name not in own:
            raise MisfitError(f"Unexpected tensor {name[:80]!r}")


class _AtMost:
    """Refuses networks of more parameters than ``most`` while they are being made in this thread."""

    def __init__(self, most: int) -> None:
        self._most, self._made, self._thread = most, 0, threading.get_ident()

    def __enter__(self) -> None:
        self._hook = register_module_parameter_registration_hook(self._count)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _count(self, module: nn.Module, name: str, parameter: Any) -> None:
        if threading.get_ident() == self._thread:
            self._made += 1
            if self._made > self._most:
                raise MisfitError(f"Missing tensors: the network has more than {self._most}")
