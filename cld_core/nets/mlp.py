"""The fully connected network of the toy experiments (the paper, appendix E), and a residual one.

The layers of `MLP` are linear with SiLU after each. On a CPU, oneDNN computes them where it is the
faster one. Torch's own float32 products are MKL's, which on AMD's processors do without AVX-512.
Without gradients, which is sampling of toy data, oneDNN fuses layer and SiLU. With gradients, it
computes a product only if it gets what torch gets, to the last bit: which of the two is faster is
measured, once per process, and a measurement must not decide how a run continues that is resumed.
"""

import functools
import math
import timeit
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cld_core.config.network import MlpSpec, ResnetSpec

from . import LABEL_FEATURES, embedding

FREQUENCIES = 8
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
# Rows whose hidden layers fit into the cache.
_BLOCK_ROWS = 2048
# With fewer rows, or fewer per thread, oneDNN's calls cost more than they gain, and MKL rounds
# otherwise.
_LEAST_ROWS, _LEAST_ROWS_PER_THREAD = 128, 16
# The share of torch's time that oneDNN may take.
_WORTHWHILE = 0.8


def time_features(t: Tensor, kind: str) -> Tensor:
    """The form in which the network sees the time (B,), (B, k): t, log t, or sines and cosines of
    log t."""
    if kind == "raw":
        return t[:, None]
    log_t = t.log()[:, None]
    if kind == "log":
        return log_t
    # log t spans 11.5 from loss_eps to 1; the slowest wave is twice as long, the fastest about a
    # fifth.
    octaves = torch.arange(FREQUENCIES, device=t.device, dtype=t.dtype)
    phase = log_t * (math.pi / 12.0) * 2.0**octaves
    return torch.cat([phase.sin(), phase.cos()], dim=1)


class MLP(nn.Module):
    """``layers`` linear layers with SiLU between; features of the position and of the time are
    appended to the input.

    Parameters are named as in the published network (`main.0.weight`, `main.2.weight`, ...).
    `input_features` are random Fourier features of x (Tancik et al. 2020): sine and cosine of 2 pi
    f x for so many frequencies f, which are drawn when the network is made, and then belong to its
    state as the buffer `frequencies`, (features, d).

    Args:
        spec: the recipe's `network` section; the other arguments are those of
            `cld_core.nets.build`.
        classes: number of labels, of which an embedding is appended to the input; 0: none.
    """

    def __init__(
        self,
        spec: MlpSpec,
        data_shape: tuple[int, ...],
        halves_in: int,
        halves_out: int,
        classes: int = 0,
    ) -> None:
        super().__init__()
        (d,), features = data_shape, spec.input_features
        self.time_input = spec.time_input
        # Without features, nothing is drawn: the weights stay what the seed makes of them.
        self.frequencies: Tensor | None
        self.register_buffer(
            "frequencies", torch.randn(features, d) * spec.input_scale if features else None
        )
        times = 2 * FREQUENCIES if spec.time_input == "fourier" else 1
        extra = LABEL_FEATURES if classes else 0
        sizes = [halves_in * d + 2 * features + times + extra, *[spec.width] * (spec.layers - 1)]
        hidden = [module for pair in pairwise(sizes) for module in (nn.Linear(*pair), nn.SiLU())]
        self.main = nn.Sequential(*hidden, nn.Linear(spec.width, halves_out * d))
        self.label_embedding = embedding(classes, LABEL_FEATURES)

    def forward(self, u: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        """(B, nd), (B,), and labels (B,) if it has classes, to (B, md)."""
        return in_blocks(self._rows, u, t, *label)

    def _rows(self, u: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        given = () if self.label_embedding is None else (self.label_embedding.of(u, label),)
        h = torch.cat(
            [u, *self._position_features(u), time_features(t, self.time_input), *given], dim=1
        )
        *hidden, last = (layer for layer in self.main if isinstance(layer, nn.Linear))
        return last(silu_layers(hidden, h))

    def _position_features(self, u: Tensor) -> tuple[Tensor, ...]:
        """Sines and cosines of x, the first part of u (B, inputs): (B, features) each; nothing if
        there are none.

        Autocast does not apply: phases of many turns have no digits left in half precision.
        """
        if self.frequencies is None:
            return ()
        with torch.autocast(u.device.type, enabled=False):
            x = u[:, : self.frequencies.shape[1]].to(self.frequencies.dtype)
            phase = 2 * math.pi * x @ self.frequencies.T
            return phase.sin(), phase.cos()


def in_blocks(function: Callable[..., Tensor], u: Tensor, *others: Tensor) -> Tensor:
    """function(u, *others), of tensors with B rows each, on a CPU without gradients in blocks of
    rows.

    On Zen 5 with one thread, 4,096 rows take a third less time; on Intel with AVX-512, the same.
    """
    plain = (
        u.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    )
    if len(u) <= _BLOCK_ROWS or not plain:
        return function(u, *others)
    parts = (tensor.split(_BLOCK_ROWS) for tensor in (u, *others))
    return torch.cat([function(*rows) for rows in zip(*parts, strict=True)])


def silu_layers(layers: Sequence[nn.Linear], h: Tensor) -> Tensor:
    """h (B, in) through one layer after the other, with SiLU after each: (B, out).

    However it is computed, the result is the same to float32 rounding, and in training to the last
    bit.
    """
    if _onednn_can(h, layers):
        if not torch.is_grad_enabled():
            for layer in layers:
                h = _onednn(h, layer.weight, layer.bias, "swish")
            return h
        if any(_onednn_wins(h, layer.weight) for layer in layers):
            return _SiluLayers.apply(
                h, *(layer.weight for layer in layers), *(layer.bias for layer in layers)
            )
    for layer in layers:
        h = functional.silu(layer(h))
    return h


def _onednn_can(h: Tensor, layers: Sequence[nn.Linear]) -> bool:
    plain = (
        h.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )
    return _AVAILABLE and plain and h.dtype == torch.float32 == layers[0].weight.dtype


class _SiluLayers(torch.autograd.Function):
    """`silu_layers` of h, all weights and all biases, with each product chosen. It can be
    differentiated once."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, *parameters: Tensor) -> Tensor:
        count = len(parameters) // 2
        inputs, before = [], []
        for weight, bias in zip(parameters[:count], parameters[count:], strict=True):
            inputs.append(h)
            before.append(_linear(h, weight, bias))
            h = functional.silu(before[-1])
        ctx.save_for_backward(*inputs, *before, *parameters[:count])
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.saved_tensors) // 3
        inputs, before, weights = (ctx.saved_tensors[i * count : (i + 1) * count] for i in range(3))
        wants_h, *wants = ctx.needs_input_grad
        of_weights: list[Tensor | None] = [None] * count
        of_biases: list[Tensor | None] = [None] * count
        for i in reversed(range(count)):
            inner = torch.ops.aten.silu_backward(gradient, before[i])
            if wants[i]:
                of_weights[i] = inner.t() @ inputs[i]
            if wants[count + i]:
                of_biases[i] = inner.sum(0)
            if i == 0 and not wants_h:
                return None, *of_weights, *of_biases
            gradient = _linear(inner, weights[i].t(), None)
        return gradient, *of_weights, *of_biases


def _onednn(h: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(h, weight, bias, activation, [], "")


def _linear(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """h weight^T + bias, (B, in) and (out, in) to (B, out), by oneDNN or torch."""
    return (
        _onednn(h, weight, bias) if _onednn_wins(h, weight) else functional.linear(h, weight, bias)
    )


def _onednn_wins(h: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN gets the same h weight^T as torch, in less time."""
    threads = torch.get_num_threads()
    if len(h) < _least_rows(threads):
        return False
    layout = weight.shape, weight.stride(), threads
    return _is_faster(*layout) and _is_same(len(h), *layout)


def _least_rows(threads: int) -> int:
    return max(_LEAST_ROWS, _LEAST_ROWS_PER_THREAD * threads)


@functools.cache
def _is_same(rows: int, shape: torch.Size, strides: tuple[int, ...], threads: int) -> bool:
    """Whether a trial with this many rows gives the same bits.

    Both add up products in the order of the inputs. But MKL does so for a limited number of inputs
    (192 with AVX2), beyond which it adds the next sum to the first, and it takes other ways to few
    outputs. ``threads`` is in the key.
    """
    factors = _trial(rows, shape, strides)
    with torch.no_grad():
        return torch.equal(_onednn(*factors), functional.linear(*factors))


@functools.cache
def _is_faster(shape: torch.Size, strides: tuple[int, ...], threads: int) -> bool:
    factors = _trial(4 * _least_rows(threads), shape, strides)
    with torch.no_grad():
        calls = (functools.partial(product, *factors) for product in (_onednn, functional.linear))
        ours, theirs = (min(timeit.repeat(call, number=1, repeat=10)) for call in calls)
    return ours < _WORTHWHILE * theirs


def _trial(rows: int, shape: torch.Size, strides: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.empty_strided(shape, strides).normal_(generator=generator)
    h, bias = (torch.randn(size, generator=generator) for size in ((rows, shape[1]), (shape[0],)))
    return h, weight, bias


class ResNet(nn.Module):
    """A first layer, ``layers`` residual layers h + W [h, log t], each followed by SiLU, and a last
    layer.

    An embedding of the label is appended beside log t.

    Parameters are named as in the published network (`layers.0.weight`, ...). The arguments are
    those of `cld_core.nets.build`.
    """

    def __init__(
        self,
        spec: ResnetSpec,
        data_shape: tuple[int, ...],
        halves_in: int,
        halves_out: int,
        classes: int = 0,
    ) -> None:
        super().__init__()
        (d,), width = data_shape, spec.width
        more = 1 + (LABEL_FEATURES if classes else 0)
        hidden = [nn.Linear(width + more, width) for _ in range(spec.layers)]
        first, last = (
            nn.Linear(halves_in * d + more, width),
            nn.Linear(width + more, halves_out * d),
        )
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
