"""The residual network for toy data: log t is appended to the input of every layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cld_core.recipe.network import ResnetSpec

from .vectors import dimension


class ResNet(nn.Module):
    """A first layer, ``layers`` residual layers h + W [h, log t], each followed by SiLU, and a last layer.

    Parameters are named as in the published network (`layers.0.weight`, ...).
    """

    def __init__(self, *, inputs: int, outputs: int, width: int = 64, layers: int = 20) -> None:
        super().__init__()
        hidden = [nn.Linear(width + 1, width) for _ in range(layers)]
        self.layers = nn.ModuleList([nn.Linear(inputs + 1, width), *hidden, nn.Linear(width + 1, outputs)])

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        """(B, inputs) and (B,) to (B, outputs)."""
        log_t = t.log()[:, None]
        first, *hidden, last = self.layers
        h = functional.silu(first(torch.cat([u, log_t], dim=1)))
        for layer in hidden:
            h = functional.silu(h + layer(torch.cat([h, log_t], dim=1)))
        return last(torch.cat([h, log_t], dim=1))


def build(spec: ResnetSpec, data_shape: tuple[int, ...], halves_in: int, halves_out: int) -> ResNet:
    """The network of a recipe; see `cld_core.nets.build`."""
    d = dimension(data_shape, spec.name)
    return ResNet(inputs=halves_in * d, outputs=halves_out * d, width=spec.width, layers=spec.layers)
