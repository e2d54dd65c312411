"""The residual network for toy data: log t, and an embedding of the label, are appended to the input of every layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cld_core.config.network import ResnetSpec

from . import dimension
from .labels import LABEL_FEATURES, embedding


class ResNet(nn.Module):
    """A first layer, ``layers`` residual layers h + W [h, log t], each followed by SiLU, and a last layer.

    Parameters are named as in the published network (`layers.0.weight`, ...). The arguments are those of
    `cld_core.nets.build`.
    """

    def __init__(
        self, spec: ResnetSpec, data_shape: tuple[int, ...], halves_in: int, halves_out: int, classes: int = 0
    ) -> None:
        super().__init__()
        d, width = dimension(data_shape, spec.name), spec.width
        more = 1 + (LABEL_FEATURES if classes else 0)
        hidden = [nn.Linear(width + more, width) for _ in range(spec.layers)]
        first, last = nn.Linear(halves_in * d + more, width), nn.Linear(width + more, halves_out * d)
        self.layers = nn.ModuleList([first, *hidden, last])
        self.label_embedding = embedding(classes, LABEL_FEATURES)

    def forward(self, u: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        """(B, nd), (B,), and labels (B,) if it has classes, to (B, md)."""
        given = () if self.label_embedding is None else (self.label_embedding.of(u, label),)
        known = (t.log()[:, None], *given)
        first, *hidden, last = self.layers
        h = functional.silu(first(torch.cat([u, *known], dim=1)))
        for layer in hidden:
            h = functional.silu(h + layer(torch.cat([h, *known], dim=1)))
        return last(torch.cat([h, *known], dim=1))
