"""The fully connected network of the toy experiments (the paper, appendix E)."""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from cld_core.config.network import MlpSpec

from . import dimension
from .dense import in_blocks, silu_layers
from .labels import LABEL_FEATURES, embedding

FREQUENCIES = 8


def time_features(t: Tensor, kind: str) -> Tensor:
    """The form in which the network sees the time (B,), (B, k): t, log t, or sines and cosines of log t."""
    if kind == "raw":
        return t[:, None]
    log_t = t.log()[:, None]
    if kind == "log":
        return log_t
    # log t spans 11.5 from loss_eps to 1; the slowest wave is twice as long, the fastest about a fifth.
    octaves = torch.arange(FREQUENCIES, device=t.device, dtype=t.dtype)
    phase = log_t * (math.pi / 12.0) * 2.0**octaves
    return torch.cat([phase.sin(), phase.cos()], dim=1)


class MLP(nn.Module):
    """``layers`` linear layers with SiLU between; features of the position and of the time are appended to the input.

    Parameters are named as in the published network (`main.0.weight`, `main.2.weight`, ...).

    Args:
        inputs: numbers in a row of the input, of which the first ``position`` are x.
        features: random Fourier features of x (Tancik et al. 2020): sine and cosine of 2 pi f x for so many
            frequencies f. They are drawn from N(0, ``scale``^2) when the network is made, and then belong to its
            state as the buffer `frequencies`, (features, position).
        classes: number of labels, of which an embedding is appended to the input; 0: none.
    """

    def __init__(
        self,
        *,
        inputs: int,
        outputs: int,
        width: int = 128,
        layers: int = 5,
        time_input: Literal["raw", "log", "fourier"] = "raw",
        position: int = 0,
        features: int = 0,
        scale: float = 1.0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.time_input = time_input
        # Without features, nothing is drawn: the weights stay what the seed makes of them.
        self.frequencies: Tensor | None
        self.register_buffer("frequencies", torch.randn(features, position) * scale if features else None)
        times = 2 * FREQUENCIES if time_input == "fourier" else 1
        extra = LABEL_FEATURES if classes else 0
        sizes = [inputs + 2 * features + times + extra, *[width] * (layers - 1)]
        hidden = [module for pair in pairwise(sizes) for module in (nn.Linear(*pair), nn.SiLU())]
        self.main = nn.Sequential(*hidden, nn.Linear(width, outputs))
        self.label_embedding = embedding(classes, LABEL_FEATURES)

    def forward(self, u: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        """(B, inputs), (B,), and labels (B,) if it has classes, to (B, outputs)."""
        return in_blocks(self._rows, u, t, *label)

    def _rows(self, u: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        given = () if self.label_embedding is None else (self.label_embedding.of(u, label),)
        h = torch.cat([u, *self._position_features(u), time_features(t, self.time_input), *given], dim=1)
        *hidden, last = (layer for layer in self.main if isinstance(layer, nn.Linear))
        return last(silu_layers(hidden, h))

    def _position_features(self, u: Tensor) -> tuple[Tensor, ...]:
        """Sines and cosines of x, the first part of u (B, inputs): (B, features) each; nothing if there are none.

        Autocast does not apply: phases of many turns have no digits left in half precision.
        """
        if self.frequencies is None:
            return ()
        with torch.autocast(u.device.type, enabled=False):
            x = u[:, : self.frequencies.shape[1]].to(self.frequencies.dtype)
            phase = 2 * math.pi * x @ self.frequencies.T
            return phase.sin(), phase.cos()


def build(spec: MlpSpec, data_shape: tuple[int, ...], halves_in: int, halves_out: int, classes: int = 0) -> MLP:
    """The network of a recipe; see `cld_core.nets.build`."""
    d = dimension(data_shape, spec.name)
    return MLP(
        inputs=halves_in * d,
        outputs=halves_out * d,
        width=spec.width,
        layers=spec.layers,
        time_input=spec.time_input,
        position=d,
        features=spec.input_features,
        scale=spec.input_scale,
        classes=classes,
    )
