"""The fully connected network of the toy experiments (the paper, appendix E), and a residual one.

The layers of `MLP` are linear, with SiLU after each. On a CPU, oneDNN computes them where it is
faster than torch, whose float32 products are those of MKL, without AVX-512 on processors of AMD.
Without gradients, as in sampling, oneDNN fuses layer and SiLU. With gradients, it computes a
product only if the result is the same as torch's, to the last bit: speed is measured once per
process, and a measurement must not change how a resumed run continues.
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

from cld_core.config.keys import Shape
from cld_core.config.network import MlpSpec, ResnetSpec

from . import LABEL_FEATURES, embedding

FREQUENCIES = 8
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
# Rows whose hidden layers fit into the cache.
_BLOCK_ROWS = 2048
# With fewer rows, or fewer per thread, oneDNN's calls cost more than they save, and MKL rounds
# differently.
_LEAST_ROWS = 128
_LEAST_ROWS_PER_THREAD = 16
# The largest share of torch's time at which oneDNN is used.
_WORTHWHILE = 0.8


def time_features(t: Tensor, kind: str) -> Tensor:
    """The input (B, k) of times (B,): t, log t, or sines and cosines of log t."""
    if kind == "raw":
        return t[:, None]
    log_t = t.log()[:, None]
    if kind == "log":
        return log_t
    # From loss_eps to 1, log t spans 11.5. The slowest wave is twice as long, the fastest a fifth.
    octaves = torch.arange(FREQUENCIES, device=t.device, dtype=t.dtype)
    phase = log_t * (math.pi / 12.0) * 2.0**octaves
    return torch.cat([phase.sin(), phase.cos()], dim=1)


class MLP(nn.Module):
    """``layers`` linear layers with SiLU between, of u and features of x and of the time.

    Parameters are named as in the published network (`main.0.weight`, `main.2.weight`, ...). The
    features of x are random Fourier features (Tancik et al. 2020), sine and cosine of 2 pi f x for
    `input_features` frequencies f. These are drawn when the network is made, and belong to its
    state as the buffer `frequencies`, (features, d).

    Args:
        spec: the recipe's `network` section; the other arguments are those of
            `cld_core.nets.build`.
        classes: number of labels, of which an embedding is appended to the input; 0: none.
    """

    def __init__(
        self,
        spec: MlpSpec,
        data_shape: Shape,
        halves_in: int,
        halves_out: int,
        classes: int = 0,
    ) -> None:
        super().__init__()
        (d,) = data_shape
        self.time_input = spec.time_input
        self.frequencies: Tensor | None
        frequencies = None
        if spec.input_features:
            frequencies = torch.randn(spec.input_features, d) * spec.input_scale
        self.register_buffer("frequencies", frequencies)
        times = 2 * FREQUENCIES if spec.time_input == "fourier" else 1
        extra = LABEL_FEATURES if classes else 0
        inputs = halves_in * d + 2 * spec.input_features + times + extra
        layers: list[nn.Module] = []
        for pair in pairwise([inputs, *[spec.width] * (spec.layers - 1)]):
            layers += [nn.Linear(*pair), nn.SiLU()]
        self.main = nn.Sequential(*layers, nn.Linear(spec.width, halves_out * d))
        self.label_embedding = embedding(classes, LABEL_FEATURES)

    def forward(self, u: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        """(B, nd), (B,), and labels (B,) if it has classes, to (B, md)."""
        return in_blocks(self._rows, u, t, *label)

    def _rows(self, u: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        inputs = [u, *self._position_features(u), time_features(t, self.time_input)]
        if self.label_embedding is not None:
            inputs.append(self.label_embedding.of(u, label))
        *hidden, last = (layer for layer in self.main if isinstance(layer, nn.Linear))
        return last(silu_layers(hidden, torch.cat(inputs, dim=1)))

    def _position_features(self, u: Tensor) -> tuple[Tensor, ...]:
        """Sines and cosines of x, the first part of u, (B, features) each; () without features.

        Autocast does not apply, because phases of many turns have no digits in half precision.
        """
        if self.frequencies is None:
            return ()
        with torch.autocast(u.device.type, enabled=False):
            x = u[:, : self.frequencies.shape[1]].to(self.frequencies.dtype)
            phase = 2 * math.pi * x @ self.frequencies.T
            return phase.sin(), phase.cos()


def in_blocks(function: Callable[..., Tensor], u: Tensor, *others: Tensor) -> Tensor:
    """function(u, *others) of tensors of B rows each; on a CPU without gradients, in blocks of
    rows.

    With one thread on Zen 5, this saves a third of the time of 4,096 rows; on Intel with AVX-512,
    nothing.
    """
    if torch.is_grad_enabled() or len(u) <= _BLOCK_ROWS or not _is_plain(u):
        return function(u, *others)
    parts = (tensor.split(_BLOCK_ROWS) for tensor in (u, *others))
    return torch.cat([function(*rows) for rows in zip(*parts, strict=True)])


def _is_plain(h: Tensor) -> bool:
    """Whether h is on the CPU, and not being compiled."""
    return h.device.type == "cpu" and not torch.compiler.is_compiling()


def silu_layers(layers: Sequence[nn.Linear], h: Tensor) -> Tensor:
    """h (B, in) through one layer after the other, with SiLU after each: (B, out).

    The ways of computing it differ by float32 rounding, and not at all in training.
    """
    if _onednn_can(h, layers):
        if not torch.is_grad_enabled():
            for layer in layers:
                h = _onednn(h, layer.weight, layer.bias, "swish")
            return h
        weights = [layer.weight for layer in layers]
        if any(_onednn_wins(h, weight) for weight in weights):
            return _SiluLayers.apply(h, *weights, *(layer.bias for layer in layers))
    for layer in layers:
        h = functional.silu(layer(h))
    return h


def _onednn_can(h: Tensor, layers: Sequence[nn.Linear]) -> bool:
    if not _AVAILABLE or not _is_plain(h) or torch.is_autocast_enabled("cpu"):
        return False
    return h.dtype == torch.float32 == layers[0].weight.dtype


class _SiluLayers(torch.autograd.Function):
    """`silu_layers` of h, all weights and all biases, each product by the faster library.

    It can be differentiated once.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, *parameters: Tensor) -> Tensor:
        count = len(parameters) // 2
        inputs = []
        before = []
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
        inputs = ctx.saved_tensors[:count]
        before = ctx.saved_tensors[count : 2 * count]
        weights = ctx.saved_tensors[2 * count :]
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
    product = _onednn if _onednn_wins(h, weight) else functional.linear
    return product(h, weight, bias)


def _onednn_wins(h: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes the same h weight^T as torch, in less time."""
    threads = torch.get_num_threads()
    if len(h) < _least_rows(threads):
        return False
    layout = (weight.shape, weight.stride(), threads)
    return _is_faster(*layout) and _is_same(len(h), *layout)


def _least_rows(threads: int) -> int:
    return max(_LEAST_ROWS, _LEAST_ROWS_PER_THREAD * threads)


@functools.cache
def _is_same(rows: int, shape: torch.Size, strides: tuple[int, ...], threads: int) -> bool:
    """Whether oneDNN and torch give the same bits, in a trial with this number of rows.

    Both add up products in the order of the inputs. But MKL adds up limited numbers of inputs (192
    with AVX2) before it adds these sums, and computes few outputs differently. ``threads`` is a
    part of the key.
    """
    factors = _trial(rows, shape, strides)
    with torch.no_grad():
        return torch.equal(_onednn(*factors), functional.linear(*factors))


@functools.cache
def _is_faster(shape: torch.Size, strides: tuple[int, ...], threads: int) -> bool:
    factors = _trial(4 * _least_rows(threads), shape, strides)
    with torch.no_grad():
        ours = min(timeit.repeat(lambda: _onednn(*factors), number=1, repeat=10))
        theirs = min(timeit.repeat(lambda: functional.linear(*factors), number=1, repeat=10))
    return ours < _WORTHWHILE * theirs


def _trial(rows: int, shape: torch.Size, strides: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """h, weight and bias of random numbers."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.empty_strided(shape, strides).normal_(generator=generator)
    h = torch.randn(rows, shape[1], generator=generator)
    return h, weight, torch.randn(shape[0], generator=generator)


class ResNet(nn.Module):
    """A first layer, ``layers`` residual layers h + W [h, log t] with SiLU after each, and a last
    layer.

    An embedding of the label, if there are labels, is appended beside log t. Parameters are named
    as in the published network (`layers.0.weight`, ...). The arguments are those of
    `cld_core.nets.build`.
    """

    def __init__(
        self,
        spec: ResnetSpec,
        data_shape: Shape,
        halves_in: int,
        halves_out: int,
        classes: int = 0,
    ) -> None:
        super().__init__()
        (d,) = data_shape
        width = spec.width
        more = 1 + (LABEL_FEATURES if classes else 0)
        hidden = [nn.Linear(width + more, width) for _ in range(spec.layers)]
        first = nn.Linear(halves_in * d + more, width)
        last = nn.Linear(width + more, halves_out * d)
        self.layers = nn.ModuleList([first, *hidden, last])
        self.label_embedding = embedding(classes, LABEL_FEATURES)

    def forward(self, u: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        """(B, nd), (B,), and labels (B,) if it has classes, to (B, md)."""
        features = [t.log()[:, None]]
        if self.label_embedding is not None:
            features.append(self.label_embedding.of(u, label))
        first, *hidden, last = self.layers
        h = functional.silu(first(torch.cat([u, *features], dim=1)))
        for layer in hidden:
            h = functional.silu(h + layer(torch.cat([h, *features], dim=1)))
        return last(torch.cat([h, *features], dim=1))
