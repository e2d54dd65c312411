"""A network of your own, for examples of any shape: docs/howto/own-network.md.

cldctl submit toy_demo plugins=examples/own_network.py network.name=gated network.width=64 --follow
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from cld_core import register
from cld_core.config.keys import key
from cld_core.config.network import NetworkSpec


@dataclass(frozen=True, kw_only=True)
class GatedSpec(NetworkSpec):
    name: str = "gated"
    width: int = key(128, "units of a layer", ge=1)
    layers: int = key(4, "layers that change the features", ge=1)


class Gated(nn.Module):
    def __init__(self, spec, data_shape, halves_in, halves_out):
        super().__init__()
        numbers, width = math.prod(data_shape), spec.width
        self.first = nn.Linear(halves_in * numbers + 1, width)
        self.layers = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(spec.layers))
        self.last = nn.Linear(width, halves_out * numbers)
        self.shape = (halves_out * data_shape[0], *data_shape[1:])

    def forward(self, u, t):  # (B, nC, ...), (B,) -> (B, mC, ...)
        h = self.first(torch.cat([u.flatten(1), t.log()[:, None]], dim=1))
        for layer in self.layers:
            h = h + nn.functional.glu(layer(nn.functional.silu(h)))
        return self.last(h).unflatten(1, self.shape)


register("network", "gated", Gated, GatedSpec)
