"""Linear layers followed by SiLU. On a CPU, oneDNN computes them where it is the faster one.

Torch's own products are MKL's, which compute without AVX-512 on AMD's processors. Without gradients, which is sampling
of toy data, oneDNN fuses layer and SiLU. With gradients, each product is oneDNN's only if its result is torch's to the
last bit: which of the two is faster is measured once per process, and a measurement must not decide how a run that is
resumed continues.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_FUSED = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
# Rows whose hidden layers fit into the cache.
_BLOCK_ROWS = 2048
# For fewer, or fewer for a thread, the calls cost more than they gain, and MKL rounds otherwise.
_LEAST_ROWS, _LEAST_ROWS_PER_THREAD = 128, 16
# Of MKL's time, what oneDNN may take to be chosen.
_WORTHWHILE = 0.8


def _is_plain_inference(h: Tensor) -> bool:
    return h.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def in_blocks(function: Callable[[Tensor, Tensor], Tensor], u: Tensor, t: Tensor) -> Tensor:
    """function(u, t), on a CPU without gradients in blocks of rows.

    On Zen 5 with one thread, 4,096 rows take a third less time; on Intel with AVX-512, the same.
    """
    if len(u) <= _BLOCK_ROWS or not _is_plain_inference(u):
        return function(u, t)
    return torch.cat([function(*rows) for rows in zip(u.split(_BLOCK_ROWS), t.split(_BLOCK_ROWS), strict=True)])


def _onednn(h: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """activation(h weight^T + bias), (B, in) and (out, in) to (B, out)."""
    return torch.ops.mkldnn._linear_pointwise(h, weight, bias, activation, [], "")


def _seconds(product: Callable[..., Tensor], *factors: Tensor | None) -> float:
    times = []
    for _ in range(8):
        begin = time.perf_counter()
        product(*factors)
        times.append(time.perf_counter() - begin)
    return min(times)


@functools.cache
def _onednn_wins(shape: torch.Size, strides: tuple[int, ...], threads: int) -> bool:
    """Whether oneDNN computes what torch computes, to the last bit, and in less time.

    Both sum in the order of the inputs, one after the other. MKL begins a second sum after some of them (192 with
    AVX2), and takes another way for few outputs.
    """
    numbers = torch.Generator().manual_seed(0)
    weight = torch.empty_strided(shape, strides).normal_(generator=numbers)
    bias = torch.randn(shape[0], generator=numbers)
    with torch.no_grad():
        for rows in (_least_rows(threads), 5 * _LEAST_ROWS - 3):
            factors = torch.randn(rows, shape[1], generator=numbers), weight, bias
            if not torch.equal(_onednn(*factors), functional.linear(*factors)):
                return False
        return _seconds(_onednn, *factors) < _WORTHWHILE * _seconds(functional.linear, *factors)


def _least_rows(threads: int) -> int:
    return max(_LEAST_ROWS, _LEAST_ROWS_PER_THREAD * threads)


def _is_faster(h: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is the better one for h weight^T, and has the same result."""
    threads = torch.get_num_threads()
    return len(h) >= _least_rows(threads) and _onednn_wins(weight.shape, weight.stride(), threads)


def _linear(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """h weight^T + bias, (B, in) and (out, in) to (B, out), by oneDNN or torch, with the same result."""
    return _onednn(h, weight, bias) if _is_faster(h, weight) else functional.linear(h, weight, bias)


class _LinearSilu(torch.autograd.Function):
    """SiLU(h W^T + b). Like most of torch's layers for the CPU, but it can be differentiated once only."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        before = _linear(h, weight, bias)
        ctx.save_for_backward(h, weight, before)
        return functional.silu(before)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, before = ctx.saved_tensors
        inner = torch.ops.aten.silu_backward(gradient, before)
        wants_h, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            _linear(inner, weight.t(), None) if wants_h else None,
            inner.t() @ h if wants_weight else None,
            inner.sum(0) if wants_bias else None,
        )


def linear_silu(layer: nn.Linear, h: Tensor) -> Tensor:
    """SiLU(layer(h)), (B, in) to (B, out). Without gradients, equal to float32 rounding; with them, to the last bit."""
    weight, bias = layer.weight, layer.bias
    plain = h.dtype == torch.float32 == weight.dtype and not torch.is_autocast_enabled("cpu")
    if _FUSED and plain and h.device.type == "cpu" and not torch.compiler.is_compiling():
        if not torch.is_grad_enabled():
            return _onednn(h, weight, bias, "swish")
        if _is_faster(h, weight):
            return _LinearSilu.apply(h, weight, bias)
    return functional.silu(layer(h))
